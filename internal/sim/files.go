package sim

func (a *Array) volumeFile(v *volume) string { return a.cfg.DataDir + "/volumes/" + v.UUID + ".img" }
func (a *Array) snapshotFile(v *volume, s *snapshot) string {
	return a.cfg.DataDir + "/snapshots/" + v.UUID + "@" + s.UTCTS + ".img"
}
func (r *request) copySnapshot(snapshotOwner, *snapshot)  {}
func (r *request) copyVolume(*volume, *snapshot, *volume) {}
func (r *request) restoreFile(*volume, *snapshot)         {}
func (r *request) dropFile(string)                        {}
func (a *Array) usedBytes(v *volume) int64                { return v.UsedBytes }
