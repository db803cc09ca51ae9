package sim

import (
	"slices"
	"strings"
)

// aclEntry is one initiator that an ACL admits. Tenant is where the initiator
// was found: the storage instance's own tenant or one above it.
type aclEntry struct{ IQN, Tenant string }

func aclFields() []field {
	return []field{references("initiators"), references("initiator_groups")}
}

func memberFields() []field {
	return []field{text("path").must(), choice("op", "add", "remove").must(), flag("force")}
}

func (a *Array) aclRoutes() []route {
	base := storagePath + "/:si/acl_policy"
	return []route{
		{path: base, ops: map[string]op{
			"GET": {do: getACL, descr: "read the ACL"},
			"PUT": {do: updateACL, in: aclFields(), descr: "replace the ACL's initiators, its groups, or both"}}},
		{path: base + "/initiators", ops: map[string]op{
			"GET": {do: listACLInitiators, list: true, descr: "list the initiators of the ACL in full"},
			"PUT": {do: changeACLInitiator, in: memberFields(), descr: "add one initiator to the ACL or remove it"}}},
		{path: base + "/initiator_groups", ops: map[string]op{
			"GET": {do: listACLGroups, list: true, descr: "list the initiator groups of the ACL in full"},
			"PUT": {do: changeACLGroup, in: memberFields(), descr: "add one initiator group to the ACL or remove it"}}},
	}
}

func getACL(r *request) (any, error) {
	si, err := r.storage()
	if err != nil {
		return nil, err
	}
	return r.renderACL(r.storagePath(si), si), nil
}

// renderACL shows initiators of the same tenant as bare references: clients
// send the list back, and the array takes nothing but paths.
func (r *request) renderACL(base string, si *storageInstance) object {
	r.inLine(si)
	initiators := make([]any, 0, len(si.Initiators))
	for _, e := range si.Initiators {
		if e.Tenant == si.app.Tenant || r.version < v22 {
			initiators = append(initiators, ref("/initiators/"+e.IQN))
			continue
		}
		inherited := object{{"path", "/initiators/" + e.IQN}, {"tenant", e.Tenant}, {"id", e.IQN}}
		if i := r.array.state.initiatorIn(e.Tenant, e.IQN); i != nil {
			inherited.set("name", i.Name)
		}
		initiators = append(initiators, inherited)
	}
	return object{{"path", base + "/acl_policy"}, {"initiators", initiators}, {"initiator_groups", refs(si.Groups)}}
}

func updateACL(r *request) (any, error) {
	si, err := r.storage()
	if err != nil {
		return nil, err
	}
	var p plan
	if err := r.planACL(si, body{"acl_policy": r.body}, &p); err != nil {
		return nil, err
	}
	p.run()
	r.saveApp(si.app)
	return r.renderACL(r.storagePath(si), si), nil
}

// planACL replaces the arrays that are present and leaves the others. A path
// that is listed twice counts once.
func (r *request) planACL(si *storageInstance, b body, p *plan) error {
	acl := b.obj("acl_policy")
	if acl == nil {
		return nil
	}
	entries, groups := []aclEntry{}, []string{}
	for _, path := range acl.strs("initiators") {
		e, err := r.initiatorAt(path)
		if err != nil {
			return err
		}
		if !slices.Contains(entries, e) {
			entries = append(entries, e)
		}
	}
	for _, path := range acl.strs("initiator_groups") {
		if err := r.groupAt(path); err != nil {
			return err
		}
		if !slices.Contains(groups, path) {
			groups = append(groups, path)
		}
	}
	p.add(func() {
		if acl.has("initiators") {
			si.Initiators = entries
		}
		if acl.has("initiator_groups") {
			si.Groups = groups
		}
		r.evict(si)
		r.export(si)
	})
	return nil
}

// initiatorAt resolves "/initiators/<iqn>" in the request's tenant and above.
func (r *request) initiatorAt(path string) (aclEntry, error) {
	iqn, ok := strings.CutPrefix(path, "/initiators/")
	if !ok {
		return aclEntry{}, errRefused("%s is not the path of an initiator", path)
	}
	i := r.findInitiator(iqn)
	if i == nil {
		return aclEntry{}, errNotFound("initiator", iqn)
	}
	return aclEntry{IQN: i.ID, Tenant: i.Tenant}, nil
}

func listACLInitiators(r *request) (any, error) {
	si, err := r.storage()
	if err != nil {
		return nil, err
	}
	r.inLine(si)
	var all []*initiator
	for _, e := range si.Initiators {
		if i := r.array.state.initiatorIn(e.Tenant, e.IQN); i != nil {
			all = append(all, i)
		}
	}
	return page(r, all, r.renderInitiator, func(i *initiator) string { return i.Name })
}

func changeACLInitiator(r *request) (any, error) {
	si, err := r.storage()
	if err != nil {
		return nil, err
	}
	path := r.body.str("path")
	iqn, _ := strings.CutPrefix(path, "/initiators/")
	at := slices.IndexFunc(si.Initiators, func(e aclEntry) bool { return e.IQN == iqn })
	switch {
	case r.body.str("op") == "remove" && at < 0:
		return nil, errNotFound("initiator", iqn+" in the ACL of storage_instance "+si.Name)
	case r.body.str("op") == "remove":
		si.Initiators = slices.Delete(slices.Clone(si.Initiators), at, at+1)
	case at >= 0:
		return nil, errConflict("initiator", iqn+" in the ACL of storage_instance "+si.Name)
	default:
		e, err := r.initiatorAt(path)
		if err != nil {
			return nil, err
		}
		si.Initiators = append(slices.Clone(si.Initiators), e)
	}
	r.evict(si)
	r.export(si)
	r.saveApp(si.app)
	return r.renderACL(r.storagePath(si), si), nil
}

// admitted are the initiators that the ACL lets in, by themselves or through a
// group.
func (s *state) admitted(si *storageInstance) []string {
	var iqns []string
	for _, e := range si.Initiators {
		iqns = append(iqns, e.IQN)
	}
	for _, path := range si.Groups {
		iqns = append(iqns, s.members(si.app.Tenant, path)...)
	}
	slices.Sort(iqns)
	return slices.Compact(iqns)
}
