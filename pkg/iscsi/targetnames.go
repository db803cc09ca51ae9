package iscsi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// targetNames remembers to which target the sessions of the host are. To read that
// of each session at every look costs ten system calls a session, on hosts that have
// hundreds; to read the directory costs a few for all of them (FM 27).
//
// A session keeps its target for life once it has one: the kernel makes it before it
// is told the name, and shows "(null)" until then. That an entry is still the one
// that was read, its inode number says, which sysfs gives out once (a kernfs id: a
// number and a generation). It only serves to pass over the sessions of others: what
// is taken for a target's own is read anew.
type targetNames struct {
	mu    sync.Mutex
	known map[entry]string
}

// other says whether an entry of the directory is a session to another target.
func (n *targetNames) other(class string, e entry, iqn string) bool {
	n.mu.Lock()
	name, known := n.known[e]
	n.mu.Unlock()
	if !known {
		var err error
		name, err = attribute(filepath.Join(class, e.name), "targetname")
		if err != nil || !validName(name) {
			return false // it comes or goes; the next look knows more
		}
		n.mu.Lock()
		if n.known == nil {
			n.known = make(map[entry]string)
		}
		n.known[e] = name
		n.mu.Unlock()
	}
	return name != iqn
}

// forget drops what is known of sessions that are gone, once they are more than
// those that are there.
func (n *targetNames) forget(there []entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) <= 2*len(there) {
		return
	}
	kept := make(map[entry]string, len(there))
	for _, e := range there {
		if name, known := n.known[e]; known {
			kept[e] = name
		}
	}
	n.known = kept
}

// entry is a name in a directory.
type entry struct {
	inode uint64
	name  string
}

// entries lists a directory with inode numbers, which os.ReadDir keeps to itself.
func entries(dir string) (all []entry, err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(fd, buffer)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", dir, err)
		}
		if n <= 0 {
			return all, nil
		}
		all = append(all, parseEntries(buffer[:n])...)
	}
}

// parseEntries reads struct linux_dirent64: inode and offset of 8 bytes each, length
// of the record in 2, type in 1, name up to a zero byte (getdents64(2)).
func parseEntries(b []byte) []entry {
	const lengthAt, nameAt = 16, 19
	var all []entry
	for len(b) > nameAt {
		length := int(binary.NativeEndian.Uint16(b[lengthAt:]))
		if length <= nameAt || length > len(b) {
			return all
		}
		if name := unix.ByteSliceToString(b[nameAt:length]); name != "." && name != ".." {
			all = append(all, entry{inode: binary.NativeEndian.Uint64(b), name: name})
		}
		b = b[length:]
	}
	return all
}
