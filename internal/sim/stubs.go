package sim

const defaultPlacement = "/placement_policies/default"

func templateOverrideField() field { return free("template_override").from(v22) }
func policyFields() []field        { return []field{nameField()} }
func restorePointField() field     { return restorePointNamed("restore_point") }
func restorePointNamed(name string) field {
	return text(name)
}
func (r *request) checkPools([]string) error                      { return nil }
func (r *request) checkPlacement(string) error                    { return nil }
func (r *request) poolExists(string) bool                         { return true }
func (r *request) poolTenant(string) string                       { return rootTenant }
func (r *request) groupAt(p string) error                         { return errNotFound("initiator_group", p) }
func (r *request) leaveGroups(aclEntry) bool                      { return false }
func (s *state) members(string, string) []string                  { return nil }
func listACLGroups(r *request) (any, error)                       { return contained{}, nil }
func changeACLGroup(r *request) (any, error)                      { return nil, r.groupAt(r.body.str("path")) }
func (r *request) fillFromTemplate(*appInstance) error            { return errNotFound("app_template", "") }
func (r *request) fillFromClone(*appInstance, string) error       { return errNotFound("clone source", "") }
func (r *request) renderTemplateRef(*appInstance) any             { return resolved{} }
func (r *request) renderSnapshots(string, []*snapshot) contained  { return contained{} }
func renderPolicies(string, []body) contained                     { return contained{} }
func (r *request) planRestore(*appInstance, *plan) error          { return nil }
func (r *request) planVolumeRestore(*volume, string, *plan) error { return nil }
func (a *Array) volumeFile(v *volume) string                      { return a.cfg.DataDir + "/volumes/" + v.UUID + ".img" }
func (a *Array) usedBytes(v *volume) int64                        { return v.UsedBytes }
func (a *Array) usedTotal() int64                                 { return 0 }

type snapshot struct{}
