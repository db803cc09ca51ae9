//go:build !amd64

package vm

func timestampCounter() uint64 { return 0 }
