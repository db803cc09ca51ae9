package image

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Mmdebstrap runs mmdebstrap with its standard output to a writer, which may be nil. When ctx ends it is asked to
// end, with all that it has started, and cleans up.
//
// Root's gets mounts and processes of its own: it binds the host's /dev/shm into the tree, where who removes what a
// killed one left would find it. So nobody else sees the mounts, and nothing outlives mmdebstrap or this process,
// however they end.
func Mmdebstrap(ctx context.Context, to io.Writer, args ...string) error {
	cmd := command(ctx, append([]string{"mmdebstrap"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) } // alone it would wait for its children
	cmd.WaitDelay = 10 * time.Second
	private, err := mayMount()
	if err != nil {
		return err
	}
	if private {
		// The signal comes when the thread ends that started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS // which makes what is mounted in there private
	}
	return runCommand(ctx, cmd, to)
}

// mayMount tells whether this process has the capability to: root in a container often lacks it, and mmdebstrap then
// mounts nothing.
func mayMount() (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return false, fmt.Errorf("ask for this process's capabilities: %w", err)
	}
	return sets[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0, nil
}
