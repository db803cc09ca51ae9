package iscsi

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNetwork answers what fn does in the network namespace that a file shows; with
// none it is this process's own. A socket stays in the namespace it was made in. The
// thread that went there is used for nothing else: when there is no way back it ends
// with its goroutine, so that nothing ever runs in the wrong namespace.
func inNetwork[T any](namespace string, fn func() (T, error)) (T, error) {
	if namespace == "" {
		return fn()
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		back, err := enterNetwork(namespace)
		if err == nil {
			r.value, r.err = fn()
			back()
		} else {
			r.err = err
		}
		done <- r
	}()
	r := <-done
	return r.value, r.err
}

// enterNetwork takes this goroutine's thread into a network namespace; back brings it
// home, or else leaves it locked.
func enterNetwork(namespace string) (back func(), err error) {
	there, err := os.Open(namespace)
	if err != nil {
		return nil, err
	}
	defer there.Close() //nolint:errcheck // a namespace
	runtime.LockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, together(os.NewSyscallError("setns", err), here.Close())
	}
	return func() {
		if unix.Setns(int(here.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		_ = here.Close()
	}, nil
}
