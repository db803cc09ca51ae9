//go:build faultpoints

package faultpoint

import (
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Dir is where a test says what happens at a point: the file kill/NAME ends the
// process there, once; hold/NAME keeps it there for as long as the file exists.
// The process makes held/NAME when it waits.
const Dir = "/run/faultpoints"

// At says that a step is done.
func At(name string) {
	if os.Remove(filepath.Join(Dir, "kill", name)) == nil {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal ends all threads, this one perhaps not first
	}
	hold := filepath.Join(Dir, "hold", name)
	if _, err := os.Stat(hold); err != nil {
		return
	}
	_ = os.WriteFile(filepath.Join(Dir, "held", name), nil, 0o600) // a test that waits for it in vain says so
	for ; ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(hold); err != nil {
			return
		}
	}
}
