package sim

import (
	"slices"
	"strings"
)

const groupsPath = "initiator_groups"

func groupResource() resource {
	return resource{
		path: groupsPath, kind: "initiator_group", key: "name", inherit: true,
		fields: []field{nameField(), references("members"), flag("force").from22()},
		check:  checkMembers, drop: dropGroup, follow: followGroup,
	}
}

func (a *Array) groupRoutes() []route {
	return []route{{path: "/" + groupsPath + "/:" + groupsPath + "/members", ops: map[string]op{
		"GET": {do: listMembers, list: true, descr: "list the members of an initiator group in full"},
		"PUT": {do: changeMember, in: memberFields(), descr: "add one initiator to a group or remove it"}}}}
}

func checkMembers(r *request, _ *doc, b body) error {
	members := []string{}
	for _, path := range b.strs("members") {
		if _, err := r.initiatorAt(path); err != nil {
			return err
		}
		if !slices.Contains(members, path) {
			members = append(members, path)
		}
	}
	b["members"] = members
	delete(b, "force")
	return nil
}

// dropGroup takes a group out of every ACL that names it.
func dropGroup(r *request, d *doc) error {
	path := "/" + groupsPath + "/" + d.Key
	for _, si := range r.array.state.targets {
		if !slices.Contains(si.Groups, path) || si.app.Tenant != d.Tenant && !strings.HasPrefix(si.app.Tenant, d.Tenant+"/") {
			continue
		}
		si.Groups = slices.DeleteFunc(slices.Clone(si.Groups), func(p string) bool { return p == path })
		r.evict(si)
		r.export(si)
		r.saveApp(si.app)
	}
	return nil
}

// followGroup brings the targets that admit a group in line with its members.
func followGroup(r *request, d *doc) {
	path := "/" + groupsPath + "/" + d.Key
	for _, si := range r.array.state.targets {
		if slices.Contains(si.Groups, path) {
			r.evict(si)
			r.export(si)
		}
	}
}

func (r *request) group() (*doc, error) {
	d := r.findDoc(groupsPath, r.param(groupsPath))
	if d == nil {
		return nil, errNotFound("initiator_group", r.param(groupsPath))
	}
	return d, nil
}

func listMembers(r *request) (any, error) {
	d, err := r.group()
	if err != nil {
		return nil, err
	}
	var all []*initiator
	for _, path := range d.Values.strs("members") {
		if i := r.findInitiator(strings.TrimPrefix(path, "/initiators/")); i != nil {
			all = append(all, i)
		}
	}
	return page(r, all, r.renderInitiator, func(i *initiator) string { return i.Name })
}

func changeMember(r *request) (any, error) {
	d, err := r.group()
	if err != nil {
		return nil, err
	}
	res := groupResource()
	if err = r.mayChange(&res, d); err != nil {
		return nil, err
	}
	if _, err = r.initiatorAt(r.body.str("path")); err != nil {
		return nil, err
	}
	members, err := changed(d.Values.strs("members"), r.body, "initiator_group "+d.Key)
	if err != nil {
		return nil, err
	}
	d.Values["members"] = members
	r.save()
	followGroup(r, d)
	return r.renderDoc(&res, "/"+groupsPath+"/"+d.Key, d, d.Values), nil
}

// changed is a list of paths after an "op" on it.
func changed(list []string, b body, of string) ([]string, error) {
	path := b.str("path")
	at := slices.Index(list, path)
	switch {
	case b.str("op") == "remove" && at < 0:
		return nil, errNotFound(path, "in "+of)
	case b.str("op") == "remove":
		return slices.Delete(slices.Clone(list), at, at+1), nil
	case at >= 0:
		return nil, errConflict(path, "in "+of)
	}
	return append(slices.Clone(list), path), nil
}

func (r *request) groupAt(path string) error {
	name, ok := strings.CutPrefix(path, "/"+groupsPath+"/")
	if !ok || r.findDoc(groupsPath, name) == nil {
		return errNotFound("initiator_group", path)
	}
	return nil
}

// members are the IQNs of a group as a tenant sees it.
func (s *state) members(tenant, path string) []string {
	name := strings.TrimPrefix(path, "/"+groupsPath+"/")
	for _, scope := range scopesOf(tenant) {
		if d, ok := s.lookDocs(scope, groupsPath).get(name); ok {
			iqns := []string{}
			for _, m := range d.Values.strs("members") {
				iqns = append(iqns, strings.TrimPrefix(m, "/initiators/"))
			}
			return iqns
		}
	}
	return nil
}

// leaveGroups takes a deleted initiator out of all groups of its tenant and
// those below; it says whether there was one.
func (r *request) leaveGroups(e aclEntry) bool {
	touched := false
	path := "/initiators/" + e.IQN
	for k, docs := range r.array.state.documents {
		if k.path != groupsPath || !slices.Contains(scopesOf(k.tenant), e.Tenant) {
			continue
		}
		for _, d := range docs.rows {
			if members := d.Values.strs("members"); slices.Contains(members, path) {
				d.Values["members"] = slices.DeleteFunc(slices.Clone(members), func(m string) bool { return m == path })
				touched = true
			}
		}
	}
	return touched
}

func listACLGroups(r *request) (any, error) {
	si, err := r.storage()
	if err != nil {
		return nil, err
	}
	r.inLine(si)
	var all []*doc
	for _, path := range si.Groups {
		if d := r.findDoc(groupsPath, strings.TrimPrefix(path, "/"+groupsPath+"/")); d != nil {
			all = append(all, d)
		}
	}
	res := groupResource()
	show := func(d *doc) object { return r.renderDoc(&res, "/"+groupsPath+"/"+d.Key, d, d.Values) }
	return page(r, all, show, func(d *doc) string { return d.Key })
}

func changeACLGroup(r *request) (any, error) {
	si, err := r.storage()
	if err != nil {
		return nil, err
	}
	if err = r.groupAt(r.body.str("path")); err != nil && r.body.str("op") == "add" {
		return nil, err
	}
	groups, err := changed(si.Groups, r.body, "the ACL of storage_instance "+si.Name)
	if err != nil {
		return nil, err
	}
	si.Groups = groups
	r.evict(si)
	r.export(si)
	r.saveApp(si.app)
	return r.renderACL(r.storagePath(si), si), nil
}
