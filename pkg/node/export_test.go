package node

// StepRecords makes s call step before and after each change of a record, so that
// a test can stop the plugin there.
func StepRecords(s *Server, step func(string) error) {
	s.records = &steppedRecords{recordStore: s.records, step: step}
}

type steppedRecords struct {
	recordStore
	step func(string) error
}

func (r *steppedRecords) save(rec *record) error {
	return r.between("record", func() error { return r.recordStore.save(rec) })
}

func (r *steppedRecords) saveFormat(f format) error {
	return r.between("format", func() error { return r.recordStore.saveFormat(f) })
}

func (r *steppedRecords) remove(volume string) error {
	return r.between("forget", func() error { return r.recordStore.remove(volume) })
}

func (r *steppedRecords) between(op string, change func() error) error {
	if err := r.step(op); err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	return r.step(op + " done")
}

// StoppedSince is stoppedSince.
func StoppedSince(superblock []byte, options []string, e FilesystemErrors) bool {
	return stoppedSince(superblock, options, e)
}

// Doing says what is done to a volume.
func (s *Server) Doing(volume string) string { return s.operations.doing()[volume] }
