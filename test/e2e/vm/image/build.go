package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// build makes dir/image.
func build(ctx context.Context, dir string) error {
	if os.Geteuid() != 0 {
		return errors.New("only root can make the files of an image; run it as root or with sudo")
	}
	root := filepath.Join(dir, "root")
	if err := bootstrap(ctx, root); err != nil {
		return err
	}
	kernel := filepath.Join(dir, "kernel")
	if err := unpackKernel(ctx, root, kernel); err != nil {
		return err
	}
	image := filepath.Join(dir, "image")
	if err := os.Mkdir(image, 0o755); err != nil {
		return err
	}
	if err := installModules(ctx, kernel, root, filepath.Join(image, "modules")); err != nil {
		return err
	}
	if err := copyKernel(kernel, filepath.Join(image, "vmlinuz")); err != nil {
		return err
	}
	if err := listPackages(ctx, root, filepath.Join(image, "packages")); err != nil {
		return err
	}
	if err := prune(root); err != nil {
		return err
	}
	if err := configure(root); err != nil {
		return err
	}
	return pack(ctx, root, filepath.Join(image, "root.ext4"))
}

// run runs one of the host's tools; its last words are the error.
func run(ctx context.Context, argv ...string) ([]byte, error) {
	var stdout bytes.Buffer
	err := runCommand(ctx, command(ctx, argv...), &stdout)
	return stdout.Bytes(), err
}

func command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	return cmd
}

// runCommand runs a command, whose last words are the error.
func runCommand(ctx context.Context, cmd *exec.Cmd, stdout io.Writer) error {
	name := cmd.Args[0]
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%s is missing (hack/prerequisites.sh vm installs it): %w", name, err)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		said := strings.TrimSpace(stderr.String())
		return fmt.Errorf("%s: %w: %s", name, err, said[max(0, len(said)-2000):])
	}
	return nil
}

// bootstrap installs the packages, and downloads the kernel's: installing that would build an initial RAM
// file system that no guest uses. All of apt runs outside of the tree, which has no certificates and no files
// of this host that a source or a proxy may name.
func bootstrap(ctx context.Context, root string) error {
	argv := []string{
		"--mode=root", "--variant=minbase", "--format=directory",
		"--include=" + strings.Join(packages, ","),
		`--aptopt=APT::Install-Recommends "false"`,
		`--aptopt=Acquire::Languages "none"`,
		`--aptopt=Acquire::Retries "3"`,
		`--customize-hook=cd "$1/var/tmp"; export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"; ` +
			`apt-get download $(apt-cache depends ` + kernelPackage + ` | sed -n "s/.*Depends: \(linux-image-\)/\1/p")`,
	}
	for _, path := range excluded {
		argv = append(argv, "--dpkgopt=path-exclude="+path)
	}
	options, err := hostAptOptions(ctx)
	if err != nil {
		return err
	}
	for _, option := range options {
		argv = append(argv, "--aptopt="+option)
	}
	sources, err := hostSources()
	if err != nil {
		return err
	}
	return Mmdebstrap(ctx, nil, append(append(argv, Suite, root), sources...)...)
}

func unpackKernel(ctx context.Context, root, kernel string) error {
	debs, err := filepath.Glob(filepath.Join(root, "var/tmp/linux-image-*.deb"))
	if err != nil {
		return err
	}
	if len(debs) != 1 {
		return fmt.Errorf("expected one kernel package of %s, got %d", kernelPackage, len(debs))
	}
	_, err = run(ctx, "dpkg-deb", "-x", debs[0], kernel)
	return err
}

func copyKernel(kernel, path string) error {
	found, err := filepath.Glob(filepath.Join(kernel, "boot/vmlinuz-*"))
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("expected one kernel in its package, got %d", len(found))
	}
	return os.Rename(found[0], path)
}

// listPackages notes which versions the image is made of.
func listPackages(ctx context.Context, root, path string) error {
	out, err := run(ctx, "chroot", root, "dpkg-query", "-W")
	if err != nil {
		return err
	}
	return os.WriteFile(path, out, 0o644)
}

func prune(root string) error {
	for _, pattern := range pruned {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, path := range found {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// configure writes the few files that differ from Debian's. The initiator name is left out: each guest has
// its own.
func configure(root string) error {
	files := map[string]string{
		"etc/hosts":       "127.0.0.1 localhost\n",
		"etc/fstab":       "",
		"etc/resolv.conf": "",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	for _, name := range []string{"boot", "etc/iscsi/nodes", "etc/iscsi/send_targets", "etc/multipath/conf.d", "var/log", "var/tmp", "var/cache"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			return err
		}
	}
	link := filepath.Join(root, "etc/mtab")
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink("/proc/self/mounts", link); err != nil {
		return err
	}
	err := os.Remove(filepath.Join(root, "etc/iscsi/initiatorname.iscsi"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// pack makes a file system of the tree, a little larger than it: guests never write to it.
func pack(ctx context.Context, root, path string) error {
	var size int64
	err := filepath.WalkDir(root, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		size += (info.Size()+4095)/4096*4096 + 512
		return nil
	})
	if err != nil {
		return err
	}
	mib := size*11/10>>20 + 32
	_, err = run(ctx, "mke2fs", "-q", "-t", "ext4", "-b", "4096", "-i", "8192", "-m", "0", "-L", "root",
		"-O", "^has_journal", "-d", root, path, fmt.Sprintf("%dM", mib))
	return err
}
