package sim

import (
	"maps"
	"slices"
	"strings"
)

// templateOverrideField is what a request may change of its template: the names
// of storage instances and volumes are keys.
func templateOverrideField() field {
	volume := keyed("volumes",
		integer("size", 1, maxSizeGiB).loosely(),
		integer("replica_count", 1, 5).loosely(),
		placementModeField(),
		placementPolicyField(),
		group("performance_policy", performanceFields()...))
	storage := keyed("storage_instances", volume, reference("ip_pool").loosely())
	return group("template_override", storage).from22()
}

// fillFromTemplate gives an app instance what its template describes, under the
// names of the template's parts.
func (r *request) fillFromTemplate(a *appInstance) error {
	path := r.body.str("app_template")
	name, ok := strings.CutPrefix(path, "/"+templatesPath+"/")
	d := r.findDoc(templatesPath, name)
	if !ok || d == nil {
		return errNotFound("app_template", path)
	}
	override := r.body.obj("template_override").obj("storage_instances")
	if err := checkOverride("storage_instance", override, d.Values.list("storage_templates")); err != nil {
		return err
	}
	a.Template, a.TemplateTenant = d.Key, d.Tenant
	if !r.body.has("snapshot_policies") {
		a.Policies = deepCopy(d.Values.list("snapshot_policies"))
	}
	for _, st := range d.Values.list("storage_templates") {
		b, err := storageFromTemplate(st, override.obj(st.str("name")))
		if err != nil {
			return err
		}
		if _, err := r.addStorage(a, b); err != nil {
			return err
		}
	}
	for _, v := range a.volumes() {
		r.makeFile(v)
	}
	return nil
}

// checkOverride insists that everything overridden is in the template.
func checkOverride(kind string, override body, parts []body) error {
	for _, name := range slices.Sorted(maps.Keys(override)) {
		if findIn(parts, "name", name) == nil {
			return errRefused("template_override names %s %s, which the template does not have", kind, name)
		}
	}
	return nil
}

// storageFromTemplate words a storage template as the body of a storage
// instance.
func storageFromTemplate(st, override body) (body, error) {
	b := body{"name": st.str("name"), "ip_pool": override.or("ip_pool", st.str("ip_pool")),
		"auth": st.obj("auth"), "service_configuration": st.str("service_configuration")}
	templates := st.list("volume_templates")
	if err := checkOverride("volume", override.obj("volumes"), templates); err != nil {
		return nil, err
	}
	volumes := make([]body, 0, len(templates))
	for _, vt := range deepCopy(templates) {
		volumes = append(volumes, merged(vt, override.obj("volumes").obj(vt.str("name"))))
	}
	b["volumes"] = volumes
	return b, nil
}
