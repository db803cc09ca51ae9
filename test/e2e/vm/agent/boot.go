package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/datera-csi/datera-csi/test/e2e/vm/bootline"
)

// deviceTimeout bounds the wait for a device that QEMU promised; under emulation on a busy host a
// driver can take seconds.
const deviceTimeout = 60 * time.Second

// boot turns the initial RAM file system into the guest's machine and returns the port of the command
// channel. There is no systemd: what it would do and storage needs is done here.
func boot(machine bootline.Machine) (port string, err error) {
	stage := func(name string, run func() error) {
		if err == nil {
			if err = run(); err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	stage("mount system file systems", mountSystem)
	stage("load drivers", loadDrivers)
	stage("switch to the root disk", switchRoot)
	stage("mount the rest", mountRest)
	stage("start udev", startUdev)
	stage("load the modules that packages ask for", loadConfigured)
	stage("set identity", func() error { return identify(machine) })
	stage("set up the network", func() error { return setUpNetwork(machine) })
	stage("settle devices", settle)
	stage("find the command port", func() error {
		port, err = findPort()
		return err
	})
	return port, err
}

type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func mountAll(mounts []mount) error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
		}
	}
	return nil
}

const plain = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV

func mountSystem() error {
	return mountAll([]mount{
		{"proc", "/proc", "proc", plain, ""},
		{"sysfs", "/sys", "sysfs", plain, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
	})
}

// loadDrivers loads the modules that the image lists, in the order that it resolved.
func loadDrivers() error {
	list, err := os.ReadFile("/modules/order")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		if err := loadModule(filepath.Join("/modules", name)); err != nil {
			// Some only suit some processors (crc32c-intel); what is truly missing shows at the next step.
			fmt.Fprintf(os.Stderr, "agent: load %s: %v\n", name, err)
		}
	}
	return nil
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read
	return unix.FinitModule(int(file.Fd()), "", 0)
}

// switchRoot lays the guest's own state over the shared image and makes the result the root.
func switchRoot() error {
	root, err := diskNamed(bootline.RootDisk)
	if err != nil {
		return err
	}
	state, err := diskNamed(bootline.StateDisk)
	if err != nil {
		return err
	}
	err = mountAll([]mount{
		{root, "/image", "ext4", unix.MS_RDONLY, ""},
		{state, "/state", "ext4", 0, "noinit_itable"},
	})
	if err != nil {
		return err
	}
	for _, dir := range []string{"/state/upper", "/state/work"} {
		if err = os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	err = mountAll([]mount{{"overlay", "/newroot", "overlay", 0, "lowerdir=/image,upperdir=/state/upper,workdir=/state/work"}})
	if err != nil {
		return err
	}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run"} {
		if err := unix.Mount(dir, "/newroot"+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := os.Chdir("/newroot"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	return os.Chdir("/")
}

// diskNamed finds a virtio disk by its serial number.
func diskNamed(serial string) (string, error) {
	return await("disk "+serial, "/sys/block/*/serial", serial, func(attribute string) string {
		return filepath.Join("/dev", filepath.Base(filepath.Dir(attribute)))
	})
}

// findPort needs no udev link: the kernel tells each port's name.
func findPort() (string, error) {
	return await("virtio-serial port "+bootline.Port, "/sys/class/virtio-ports/*/name", bootline.Port, func(attribute string) string {
		return filepath.Join("/dev", filepath.Base(filepath.Dir(attribute)))
	})
}

// await polls for an attribute with a value and for the device node that belongs to it.
func await(what, pattern, value string, device func(attribute string) string) (string, error) {
	for deadline := time.Now().Add(deviceTimeout); ; time.Sleep(20 * time.Millisecond) {
		attributes, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		for _, attribute := range attributes {
			content, err := os.ReadFile(attribute)
			if err != nil || string(bytes.TrimSpace(content)) != value {
				continue
			}
			if _, err := os.Stat(device(attribute)); err == nil {
				return device(attribute), nil
			}
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("%s did not appear within %v", what, deviceTimeout)
		}
	}
}

func mountRest() error {
	// systemd makes mounts shared, and CSI mount propagation is built on that.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	err := mountAll([]mount{
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=620,gid=5,ptmxmode=666"},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, ""},
		{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, ""},
		{"configfs", "/sys/kernel/config", "configfs", plain, ""},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", plain, ""},
	})
	if err != nil {
		return err
	}
	for _, dir := range []string{"/run/lock/iscsi", "/run/udev", "/var/lib/iscsi"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func tool(input string, argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...) // the machine has nothing else to do
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// startUdev starts the device manager without its cold plug, which takes seconds under emulation: only
// block devices are replayed. What appears later reaches it as it happens.
func startUdev() error {
	if err := tool("", "/usr/lib/systemd/systemd-udevd", "--daemon"); err != nil {
		return err
	}
	events, err := filepath.Glob("/sys/class/block/*/uevent")
	if err != nil {
		return err
	}
	for _, event := range events {
		if err := os.WriteFile(event, []byte("add"), 0o200); err != nil {
			return err
		}
	}
	return nil
}

// loadConfigured does what systemd-modules-load does at boot. A module that the image lacks (RDMA, for
// one) is no failure there either.
func loadConfigured() error {
	names := []string{"sg"} // what a full cold plug would load for any SCSI disk
	for _, pattern := range []string{"/usr/lib/modules-load.d/*.conf", "/etc/modules-load.d/*.conf"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(content)) {
				if name := strings.TrimSpace(line); name != "" && !strings.ContainsAny(name[:1], "#;") {
					names = append(names, name)
				}
			}
		}
	}
	if err := tool("", append([]string{"modprobe", "-a", "-q"}, names...)...); err != nil {
		var failed *exec.ExitError
		if !errors.As(err, &failed) {
			return err
		}
	}
	return nil
}

func settle() error { return tool("", "udevadm", "settle", "--timeout=60") }

// identify names the machine. The initiator name is written once: a guest that changes it keeps its own.
func identify(machine bootline.Machine) error {
	if err := unix.Sethostname([]byte(machine.Name)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := os.WriteFile("/etc/hostname", []byte(machine.Name+"\n"), 0o644); err != nil {
		return err
	}
	const path = "/etc/iscsi/initiatorname.iscsi"
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if bytes.HasPrefix(content, []byte("InitiatorName=")) {
		return nil
	}
	return os.WriteFile(path, []byte("InitiatorName="+machine.Initiator+"\n"), 0o600)
}

func setUpNetwork(machine bootline.Machine) error {
	script := "link set lo up\n"
	for nic, address := range machine.Addresses {
		script += fmt.Sprintf("address add %s dev eth%d\nlink set eth%d up\n", address, nic, nic)
	}
	return tool(script, "ip", "-batch", "-")
}
