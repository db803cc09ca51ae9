package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// ErrUnavailable says that this host cannot run guests as it is; the error tells why and what helps.
var ErrUnavailable = errors.New("guests cannot run on this host")

// programs that a lab needs, with the Debian package that each comes in.
var programs = map[string]string{
	qemuProgram:  "qemu-system-x86",
	"mmdebstrap": "mmdebstrap",
	"mke2fs":     "e2fsprogs",
	"ip":         "iproute2",
	"dpkg-deb":   "dpkg",
	"apt-config": "apt",
}

func missingPackages() []string {
	var missing []string
	for program, name := range programs {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	return missing
}

// searchesSbin tells whether PATH has the directory of most of the tools: that of a user often has not.
func searchesSbin() bool {
	return slices.Contains(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin")
}

// Check tells why guests cannot run here, as ErrUnavailable, or nil.
func Check() error { return check(runtime.GOARCH) }

func check(arch string) error {
	if arch != "amd64" {
		return fmt.Errorf("%w: they and the control plane are of amd64, and it is of %s", ErrUnavailable, arch)
	}
	var reasons []string
	if os.Geteuid() != 0 {
		reasons = append(reasons, "only root can make network namespaces and images (run as root or with sudo)")
	}
	if missing := missingPackages(); len(missing) > 0 && !searchesSbin() {
		reasons = append(reasons, "PATH lacks /usr/sbin")
	} else if len(missing) > 0 {
		reasons = append(reasons, "missing Debian packages: apt-get install "+strings.Join(missing, " "))
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		reasons = append(reasons, "/dev/net/tun is missing (modprobe tun)")
	}
	if len(reasons) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrUnavailable, strings.Join(reasons, "; "))
}

// InstallDependencies installs the Debian packages that a lab needs and this host lacks, as root or by
// sudo without a password. It does nothing when none is missing.
func InstallDependencies(ctx context.Context, progress io.Writer) error {
	if !searchesSbin() {
		if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
			return err
		}
	}
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	install := "apt-get install --yes --no-install-recommends " + strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%w: it has no apt-get; install what Debian has in: %s", ErrUnavailable, strings.Join(missing, " "))
	}
	sudo, err := sudoPrefix(ctx)
	if err != nil {
		return fmt.Errorf("%w; install them with: %s", err, install)
	}
	_, _ = fmt.Fprintf(progress, "Installing %s\n", strings.Join(missing, " "))
	for _, command := range []string{"apt-get update", install} {
		argv := append(slices.Clone(sudo), strings.Fields("env DEBIAN_FRONTEND=noninteractive "+command)...)
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			words := strings.TrimSpace(string(out))
			return fmt.Errorf("%s: %w: %s", command, err, words[max(0, len(words)-2000):])
		}
	}
	return nil
}

// sudoPrefix is what to put before a command to run it as root: nothing, or sudo that asks for no password.
func sudoPrefix(ctx context.Context) ([]string, error) {
	if os.Geteuid() == 0 {
		return nil, nil
	}
	if err := exec.CommandContext(ctx, "sudo", "-n", "true").Run(); err != nil {
		return nil, fmt.Errorf("%w: this needs root, or sudo that asks for no password (sudo -v asks for it beforehand)", ErrUnavailable)
	}
	return []string{"sudo", "-n"}, nil
}
