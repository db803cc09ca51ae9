package iscsi

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// process finds the directory in the host's /proc of something that runs under a
// name and suits; "" when nothing does.
func (i *Initiator) process(name string, suits func(dir string) bool) (string, error) {
	proc := filepath.Join(i.cfg.Root, "proc")
	pids, err := numbered(proc)
	if err != nil {
		return "", err
	}
	for _, pid := range pids {
		found := filepath.Join(proc, pid)
		if comm, err := attribute(found, "comm"); err == nil && comm == name && suits(found) {
			return found, nil
		}
	}
	return "", nil
}

// numbered lists the names in a directory that are numbers, as those of processes and
// descriptors are, in no order.
func numbered(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // opened for reading
	names, err := d.Readdirnames(-1)
	return slices.DeleteFunc(names, func(name string) bool {
		_, notNumber := strconv.ParseUint(name, 10, 31)
		return notNumber != nil
	}), err
}

// runs says whether something runs under a name on the host. Where it was seen last
// is looked at first, which spares to look at every process of the host.
func (i *Initiator) runs(name string) (bool, error) {
	if dir, known := i.seen.Load(name); known {
		if comm, err := attribute(dir.(string), "comm"); err == nil && comm == name {
			return true, nil
		}
	}
	dir, err := i.process(name, func(string) bool { return true })
	if err != nil || dir == "" {
		return false, err
	}
	i.seen.Store(name, dir)
	return true, nil
}

// daemonFiles is how many files the host's iscsid may have open; 0 when that is
// not to be known. Iscsid is two processes: the one that has the sessions raises
// its limit when it starts, the one that writes the log does not. An iscsid in
// another network namespace is somebody else's.
func (i *Initiator) daemonFiles() int {
	host, _ := os.Readlink(filepath.Join(i.cfg.Root, "proc/1/ns/net"))
	most := 0
	_, err := i.process("iscsid", func(dir string) bool {
		where, err := os.Readlink(filepath.Join(dir, "ns/net"))
		if err == nil && host != "" && where != host {
			return false
		}
		limits, err := os.ReadFile(filepath.Join(dir, "limits"))
		if err == nil {
			most = max(most, parseOpenFiles(string(limits)))
		}
		return false // there may be another
	})
	if err != nil {
		return 0
	}
	return most
}

// parseOpenFiles reads the limit in force out of /proc/PID/limits, where the soft
// one comes before the hard one. No limit is 0, like none that can be read.
func parseOpenFiles(limits string) int {
	for line := range strings.Lines(limits) {
		rest, found := strings.CutPrefix(line, "Max open files")
		if fields := strings.Fields(rest); found && len(fields) > 0 {
			n, err := strconv.Atoi(fields[0])
			if err != nil || n < 0 {
				return 0
			}
			return n
		}
	}
	return 0
}
