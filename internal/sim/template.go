package sim

import (
	"maps"
	"slices"
	"strings"
)

const templatesPath = "app_templates"

func templateResource() resource {
	policies := policyResource()
	volume := resource{
		path: "volume_templates", kind: "volume_template", key: "name",
		preset: body{"placement_mode": "hybrid"},
		fields: []field{
			nameField(),
			integer("size", 1, maxSizeGiB).must(),
			integer("replica_count", 1, 5),
			placementModeField(),
			placementPolicyField(),
			references("storage_pool").from22(),
		},
		below: []resource{
			{path: "performance_policy", kind: "performance_policy", single: true, fields: performanceFields()},
			policies,
		},
		check: checkVolumeTemplate,
	}
	storage := resource{
		path: "storage_templates", kind: "storage_template", key: "name",
		preset: body{"ip_pool": defaultPool, "service_configuration": "iscsi", "auth": body{"type": "none"}},
		fields: []field{
			nameField(),
			reference("ip_pool").loosely().shownWhole(),
			choice("service_configuration", "iscsi", "object").from22(),
		},
		below: []resource{
			{path: "auth", kind: "auth", single: true, without: []string{"POST", "DELETE"}, fields: authFields(), check: checkTemplateAuth},
			volume,
		},
		check: checkStorageTemplate,
	}
	return resource{
		path: templatesPath, kind: "app_template", key: "name", inherit: true,
		fields: []field{nameField(), descrField(), reference("copy_from").fixed().loosely()},
		below:  []resource{policies, storage},
		check:  copyTemplate, drop: dropTemplate, finish: finishTemplate,
	}
}

func checkTemplateAuth(r *request, _ *doc, b body) error {
	_, err := r.newAuth(auth{}, b)
	return err
}

func checkStorageTemplate(r *request, _ *doc, b body) error {
	if !r.poolExists(b.str("ip_pool")) {
		return errNotFound("access_network_ip_pool", b.str("ip_pool"))
	}
	return checkTemplateAuth(r, nil, b.obj("auth"))
}

func checkVolumeTemplate(r *request, _ *doc, b body) error {
	if policy := b.str("placement_policy"); policy != "" {
		if err := r.checkPlacement(policy); err != nil {
			return err
		}
	}
	return r.checkPools(b.strs("storage_pool"))
}

// copyTemplate takes over from another template what the request leaves out.
func copyTemplate(r *request, _ *doc, b body) error {
	path := b.str("copy_from")
	if path == "" {
		return nil
	}
	name, ok := strings.CutPrefix(path, "/"+templatesPath+"/")
	from := r.findDoc(templatesPath, name)
	if !ok || from == nil {
		return errNotFound("app_template", path)
	}
	for _, key := range []string{"storage_templates", "snapshot_policies"} {
		if !b.has(key) {
			b[key] = deepCopy(from.Values.list(key))
		}
	}
	return nil
}

func deepCopy(list []body) []body {
	out := make([]body, len(list))
	for i, b := range list {
		out[i] = maps.Clone(b)
		for k, v := range b {
			switch v := v.(type) {
			case []body:
				out[i][k] = deepCopy(v)
			case body:
				out[i][k] = maps.Clone(v)
			}
		}
	}
	return out
}

// bound are the app instances made from a template.
func (r *request) bound(d *doc) []*appInstance {
	var apps []*appInstance
	for _, t := range r.array.state.tenants.rows {
		for _, a := range t.apps.rows {
			if a.Template == d.Key && a.TemplateTenant == d.Tenant && !a.goneAt(r.now) {
				apps = append(apps, a)
			}
		}
	}
	return apps
}

func dropTemplate(r *request, d *doc) error {
	if apps := r.bound(d); len(apps) > 0 {
		return errRefused("app_template %s is used by app_instance %s", d.Key, apps[0].Name)
	}
	return nil
}

func finishTemplate(r *request, d *doc, o *object) {
	paths := []ref{}
	for _, a := range r.bound(d) {
		paths = append(paths, ref(r.appPath(a)))
	}
	*o = slices.DeleteFunc(*o, func(m member) bool { return m.key == "copy_from" })
	o.set("app_instances", paths)
}

func (r *request) renderTemplateRef(a *appInstance) any {
	if a.Template == "" {
		return resolved{}
	}
	return resolved{"/" + templatesPath + "/" + a.Template, a.TemplateTenant}
}
