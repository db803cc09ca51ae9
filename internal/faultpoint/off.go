//go:build !faultpoints

package faultpoint

// At says that a step is done.
func At(string) {}
