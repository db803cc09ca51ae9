package sim

import "strings"

const (
	placementPath    = "placement_policies"
	defaultPlacement = "/" + placementPath + "/default"
	mediaPath        = "media_policies"
	storagePoolsPath = "storage_pools"
	domainsPath      = "failure_domains"
)

func placementResources() []resource {
	v33 := gate{from: v22, since: product33}
	return []resource{
		{path: placementPath, kind: "placement_policy", key: "name", gate: v33,
			fields: []field{nameField(), descrField(), references("max").loosely(), references("min").loosely()},
			check:  checkMedia, drop: dropPlacement},
		{path: mediaPath, kind: "media_policy", key: "name", gate: v33,
			fields: []field{nameField(), descrField(), integer("priority", 0, 1000)}, drop: dropMedia},
		{path: storagePoolsPath, kind: "storage_pool", key: "name", gate: gate{from: v22},
			fields: []field{nameField(), references("members")}, check: checkNodes("members"), drop: dropStoragePool},
		{path: domainsPath, kind: "failure_domain", key: "name", gate: gate{from: v22},
			fields: []field{nameField(), references("storage_nodes")}, check: checkNodes("storage_nodes")},
	}
}

func (s *state) addDefaultPlacement() {
	media := func(names ...string) []string {
		for i, n := range names {
			names[i] = "/" + mediaPath + "/" + n
		}
		return names
	}
	s.addDoc(mediaPath, "flash", body{"name": "flash", "priority": int64(1), "descr": "flash devices"})
	s.addDoc(mediaPath, "hdd", body{"name": "hdd", "priority": int64(2), "descr": "rotating disks"})
	s.addDoc(placementPath, "default", body{"name": "default", "max": media("flash", "hdd"), "min": media("hdd")})
	s.addDoc(placementPath, "all-flash", body{"name": "all-flash", "max": media("flash"), "min": media("flash")})
}

func (r *request) checkPlacement(path string) error {
	name, ok := strings.CutPrefix(path, "/"+placementPath+"/")
	if !ok || r.findDoc(placementPath, name) == nil {
		return errNotFound("placement_policy", path)
	}
	return nil
}

func (r *request) checkPools(paths []string) error {
	for _, path := range paths {
		name, ok := strings.CutPrefix(path, "/"+storagePoolsPath+"/")
		if !ok || r.findDoc(storagePoolsPath, name) == nil {
			return errNotFound("storage_pool", path)
		}
	}
	return nil
}

func checkMedia(r *request, _ *doc, b body) error {
	for _, path := range append(append([]string{}, b.strs("max")...), b.strs("min")...) {
		name, ok := strings.CutPrefix(path, "/"+mediaPath+"/")
		if !ok || r.findDoc(mediaPath, name) == nil {
			return errNotFound("media_policy", path)
		}
	}
	return nil
}

func checkNodes(member string) func(*request, *doc, body) error {
	return func(r *request, _ *doc, b body) error {
		for _, path := range b.strs(member) {
			if id, ok := strings.CutPrefix(path, "/storage_nodes/"); !ok || r.array.nodeIndex(id) < 0 {
				return errNotFound("storage_node", path)
			}
		}
		return nil
	}
}

func dropPlacement(r *request, d *doc) error {
	path := "/" + placementPath + "/" + d.Key
	if path == defaultPlacement {
		return errRefused("placement_policy default can not be deleted")
	}
	for _, v := range r.array.state.volumes {
		if v.Policy == path {
			return errRefused("placement_policy %s is used by volume %s of app_instance %s", d.Key, v.Name, v.si.app.Name)
		}
	}
	return nil
}

func dropMedia(r *request, d *doc) error {
	path := "/" + mediaPath + "/" + d.Key
	for _, p := range r.array.state.lookDocs(rootTenant, placementPath).rows {
		for _, used := range append(append([]string{}, p.Values.strs("max")...), p.Values.strs("min")...) {
			if used == path {
				return errRefused("media_policy %s is used by placement_policy %s", d.Key, p.Key)
			}
		}
	}
	return nil
}

func dropStoragePool(r *request, d *doc) error {
	path := "/" + storagePoolsPath + "/" + d.Key
	for _, v := range r.array.state.volumes {
		for _, used := range v.Pools {
			if used == path {
				return errRefused("storage_pool %s is used by volume %s of app_instance %s", d.Key, v.Name, v.si.app.Name)
			}
		}
	}
	return nil
}
