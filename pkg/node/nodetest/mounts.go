package nodetest

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	mount "k8s.io/mount-utils"

	"github.com/datera-csi/datera-csi/pkg/node"
)

// mounted is one line of the mount table.
type mounted struct {
	path    string
	disk    node.Number // of the device mounted, or bound as a file
	source  string
	fsType  string
	file    bool   // a device file is bound, not a file system mounted
	root    string // the directory of the file system that is mounted; "" is all of it
	options []string
	super   []string
}

// Mounts returns the machine's mount table: node's own reader of mountinfo above
// this machine's text of it, and above a mounter that does as the kernel does.
func (h *Host) Mounts() node.Mounts {
	return node.NewMounts(&mounter{FakeMounter: mount.NewFakeMounter(nil), host: h}, h.mountinfo)
}

// Mounted lists the paths that are mounts, in the order they were made.
func (h *Host) Mounted() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var paths []string
	for _, m := range h.mounts {
		paths = append(paths, m.path)
	}
	return paths
}

// MountOptions returns the options of the visible mount at path, those of the
// mount point first.
func (h *Host) MountOptions(path string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, _ := h.mountAt(path)
	if m == nil {
		return nil
	}
	return append(slices.Clone(m.options), m.super...)
}

// Remount changes the options of the visible mount at path, as an administrator
// or an error of the file system does; super are those of the file system.
func (h *Host) Remount(path string, options, super []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m, _ := h.mountAt(path); m != nil {
		m.options, m.super = options, super
	}
}

// MountForeign mounts a local disk of this machine, which is no LUN, on path.
func (h *Host) MountForeign(path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	local := node.Number{Major: 253, Minor: 1}
	h.disks[lun{"", 1}] = &Disk{host: h, number: local, path: h.dir + "/dev/vda1"}
	h.mounts = append(h.mounts, mounted{path: path, disk: local, source: "/dev/vda1", fsType: "ext4", options: []string{"rw"}, super: []string{"rw"}})
}

// MountMemory mounts a file system on path that has no device.
func (h *Host) MountMemory(path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mounts = append(h.mounts, mounted{path: path, disk: node.Number{Minor: 50}, source: "tmpfs", fsType: "tmpfs", options: []string{"rw"}, super: []string{"rw"}})
}

// Narrow makes the visible mount at path one of a directory within its file system, as
// an administrator's bind of that directory is.
func (h *Host) Narrow(path, root string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m, _ := h.mountAt(path); m != nil {
		m.root = root
	}
}

func (h *Host) mountinfo() ([]byte, error) {
	leave, err := h.enter("list")
	if err != nil {
		return nil, err
	}
	defer leave()
	var b strings.Builder
	fmt.Fprintf(&b, "1 0 253:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n2 1 0:6 / /dev rw,nosuid - devtmpfs udev rw,size=10240k\n")
	escape := strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`)
	for i, m := range h.mounts {
		number, root, fsType, source := m.disk.String(), cmp.Or(m.root, "/"), m.fsType, m.source
		if m.file {
			number, root, fsType, source = "0:6", "/"+m.source[strings.LastIndex(m.source, "/")+1:], "devtmpfs", "udev"
		}
		fmt.Fprintf(&b, "%d 1 %s %s %s %s shared:%d - %s %s %s\n", i+3, number, root, escape.Replace(m.path),
			strings.Join(m.options, ","), i+3, fsType, source, strings.Join(m.super, ","))
	}
	return []byte(b.String()), nil
}

// mountAt finds the visible mount at path, and its disk.
func (h *Host) mountAt(path string) (*mounted, *Disk) {
	for i := len(h.mounts) - 1; i >= 0; i-- {
		if h.mounts[i].path == path {
			return &h.mounts[i], h.byNumber(h.mounts[i].disk)
		}
	}
	return nil, nil
}

// mountsOf lists the file system mounts of a disk; a bound device file does not
// hold the device.
func (h *Host) mountsOf(d *Disk) []string {
	var paths []string
	for _, m := range h.mounts {
		if m.disk == d.number && !m.file {
			paths = append(paths, m.path)
		}
	}
	return paths
}

// mounter is mount-utils' fake, made to do what mount(8) and umount(8) do.
type mounter struct {
	*mount.FakeMounter
	host *Host
}

func (m *mounter) MountSensitiveWithoutSystemd(source, target, fsType string, options, _ []string) error {
	h := m.host
	leave, err := h.enter("mount")
	if err != nil {
		return err
	}
	defer leave()
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	var line mounted
	if slices.Contains(options, "bind") {
		line, err = h.bind(source, info.IsDir())
	} else {
		line, err = h.fresh(source, fsType, options, info.IsDir())
	}
	if err != nil {
		return err
	}
	if err := h.step("mount"); err != nil {
		return err
	}
	line.path = target
	h.mounts = append(h.mounts, line)
	h.done(fmt.Sprintf("mount %s -t %s -o %s %s", source, fsType, strings.Join(options, ","), target))
	if slices.Contains(options, "bind") && slices.Contains(options, "ro") { // mount-utils needs two steps for it
		if err := h.step("remount"); err != nil {
			return err
		}
		h.mounts[len(h.mounts)-1].options = []string{"ro", "relatime"}
	}
	return h.step("mounted")
}

func (h *Host) bind(source string, onDir bool) (mounted, error) {
	if d := h.byPath(source); d != nil {
		if onDir {
			return mounted{}, errors.New("mount: a file cannot be bound on a directory")
		}
		return mounted{disk: d.number, source: d.path, file: true, options: []string{"rw", "relatime"}, super: []string{"rw"}}, nil
	}
	from, _ := h.mountAt(source)
	if from == nil {
		return mounted{}, fmt.Errorf("mount: %s is not a mount point; the node's own disk would be bound", source)
	}
	if !onDir {
		return mounted{}, errors.New("mount: a directory cannot be bound on a file")
	}
	return *from, nil
}

func (h *Host) fresh(source, fsType string, options []string, onDir bool) (mounted, error) {
	d := h.byPath(source)
	if d == nil || !onDir {
		return mounted{}, fmt.Errorf("mount: %s: special device does not exist, or its target is no directory", source)
	}
	if d.severed {
		return mounted{}, fmt.Errorf("mount: %s: can't read superblock", source)
	}
	name, bytes, err := d.filesystem()
	if err != nil {
		return mounted{}, err
	}
	if name == "" || name != fsType || bytes > d.visible {
		return mounted{}, fmt.Errorf("mount: wrong fs type, bad option, bad superblock on %s: %q of %d bytes", source, name, bytes)
	}
	for _, o := range options {
		if name == "ext4" && (o == "nouuid" || o == "norecovery") || name == "xfs" && o == "noload" {
			return mounted{}, fmt.Errorf("mount: %s does not know option %s", name, o)
		}
	}
	mode := "rw"
	if slices.Contains(options, "ro") {
		mode = "ro"
	}
	replays := !slices.Contains(options, "norecovery") && !slices.Contains(options, "noload")
	switch {
	case d.readOnly && (mode == "rw" || replays):
		return mounted{}, fmt.Errorf("mount: %s: cannot mount %s read-write or replay its journal, the device is read-only", source, name)
	case d.mountFails > 0:
		d.mountFails--
		return mounted{}, fmt.Errorf("mount: %s: %s", source, d.mountWords)
	case d.damaged:
		return mounted{}, fmt.Errorf("mount: %s: mount(2) system call failed: Structure needs cleaning", source)
	}
	return mounted{disk: d.number, source: source, fsType: fsType, options: []string{mode, "relatime"}, super: append([]string{mode}, options...)}, nil
}

func (m *mounter) Unmount(target string) error {
	h := m.host
	leave, err := h.enter("unmount")
	if err != nil {
		return err
	}
	defer leave()
	if err := h.step("umount"); err != nil {
		return err
	}
	for i := len(h.mounts) - 1; i >= 0; i-- {
		if h.mounts[i].path == target {
			h.mounts = slices.Delete(h.mounts, i, i+1)
			h.done("umount " + target)
			return h.step("umounted")
		}
	}
	return fmt.Errorf("umount: %s: not mounted", target)
}
