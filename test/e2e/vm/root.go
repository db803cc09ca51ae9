package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
)

// BecomeRoot makes this process root's: it does nothing for root, and else starts the program again by
// sudo that asks for no password, in which case it does not return. Files of the image and build caches
// then are root's own.
func BecomeRoot(ctx context.Context) error {
	sudo, err := sudoPrefix(ctx)
	if err != nil || sudo == nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	path, err := exec.LookPath(sudo[0])
	if err != nil {
		return err
	}
	argv := append(slices.Clone(sudo), "-H", "env")
	argv = append(argv, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	for _, key := range []string{"CI", "E2E_LOGS", "KEEP", "GOPROXY", "GOFLAGS", "GOTOOLCHAIN", "NO_COLOR", "TERM"} {
		if value, ok := os.LookupEnv(key); ok {
			argv = append(argv, key+"="+value)
		}
	}
	if modules, err := exec.CommandContext(ctx, "go", "env", "GOMODCACHE").Output(); err == nil {
		argv = append(argv, fmt.Sprintf("GOMODCACHE=%s", string(modules[:max(0, len(modules)-1)])))
	}
	return syscall.Exec(path, append(append(argv, self), os.Args[1:]...), os.Environ())
}
