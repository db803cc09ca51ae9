package vm

// timestampCounter reads the processor's counter, which an emulated processor shows its guest as its own.
func timestampCounter() uint64
