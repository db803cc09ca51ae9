package sim

import (
	"fmt"
	"regexp"
	"strings"
)

const (
	poolsPath   = "access_network_ip_pools"
	defaultPool = "/" + poolsPath + "/default"
)

var reIPv4 = regexp.MustCompile(`^((25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(25[0-5]|2[0-4]\d|1?\d?\d)$`)

func poolResource() resource {
	ipv4 := "an IPv4 address"
	return resource{
		path: poolsPath, kind: "access_network_ip_pool", key: "name",
		fields: []field{nameField(), descrField()},
		check:  nil,
		drop:   dropPool,
		below: []resource{{
			path: "network_paths", kind: "network_path", key: "name", without: []string{"POST", "DELETE"},
			fields: []field{
				nameField(),
				integer("netmask", 16, 29),
				integer("vlan", 0, 4094),
				text("start_ip").like(reIPv4, ipv4),
				integer("range", 6, 254),
				integer("mtu", 1500, 9198),
				text("gateway").like(reIPv4, ipv4).orNull(),
			},
			preset: body{"netmask": int64(16), "vlan": int64(0), "range": int64(6), "mtu": int64(1500)},
		}},
	}
}

// addDefaultPool makes the pool that is always there, with one network path for
// each address of the targets.
func (s *state) addDefaultPool(ips []string) {
	paths := make([]body, len(ips))
	for i, ip := range ips {
		paths[i] = body{"name": fmt.Sprintf("access_%d", i+1), "netmask": int64(16), "vlan": int64(0),
			"start_ip": ip, "range": int64(6), "mtu": int64(1500)}
	}
	s.addDoc(poolsPath, "default", body{"name": "default", "network_paths": paths})
}

func (r *request) poolExists(path string) bool {
	name, ok := strings.CutPrefix(path, "/"+poolsPath+"/")
	return ok && r.findDoc(poolsPath, name) != nil
}

// accessIPs are where a target is reached. A data plane has it on all addresses of the
// array; without one, it is on those of its pool, if that names any.
func (r *request) accessIPs(si *storageInstance) []string {
	if r.array.cfg.Exporter != nil || si.IPPool == defaultPool {
		return r.array.accessIPs()
	}
	var ips []string
	if pool := r.findDoc(poolsPath, strings.TrimPrefix(si.IPPool, "/"+poolsPath+"/")); pool != nil {
		for _, path := range pool.Values.list("network_paths") {
			if ip := path.str("start_ip"); ip != "" {
				ips = append(ips, ip)
			}
		}
	}
	if len(ips) == 0 {
		return r.array.accessIPs()
	}
	return ips
}

func dropPool(r *request, d *doc) error {
	path := "/" + poolsPath + "/" + d.Key
	if path == defaultPool {
		return errRefused("access_network_ip_pool default can not be deleted")
	}
	for _, si := range r.array.state.targets {
		if si.IPPool == path {
			return errRefused("access_network_ip_pool %s is used by storage_instance %s of app_instance %s", d.Key, si.Name, si.app.Name)
		}
	}
	return nil
}
