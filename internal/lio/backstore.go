package lio

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/datera-csi/datera-csi/internal/sim"
)

// One HBA of our own number keeps away from targetcli, which counts from 0.
const (
	hbaName      = "fileio_7717"
	markPrefix   = "datera-"
	markLUN      = "-lun-"
	maxUnmap     = 2 << 30 / sector // sectors an UNMAP may name: discarding 100 GiB takes 50 commands, not 25,600
	vendor       = "DATERA"
	product      = "IBLOCK"
	revision     = "4.0"
	serialPrefix = "T10 VPD Unit Serial Number: " // how the kernel shows vpd_unit_serial
)

func (e *Exporter) backstore(iqn string, lun int) string {
	return filepath.Join(e.hba, markPrefix+iqn+markLUN+strconv.Itoa(lun))
}

// parseBackstore is the inverse of the name that backstore gives; ours is false
// for any other name.
func parseBackstore(name string) (iqn string, lun int, ours bool) {
	rest, ours := strings.CutPrefix(name, markPrefix)
	i := strings.LastIndex(rest, markLUN)
	if !ours || i < 0 {
		return "", 0, false
	}
	lun, err := strconv.Atoi(rest[i+len(markLUN):])
	return rest[:i], lun, err == nil && lun >= 0
}

// marks lists the backstores of a target by LUN number.
func (e *Exporter) marks(iqn string) ([]int, error) {
	dirs, err := e.dirsLike(e.hba, markPrefix+iqn+markLUN)
	var luns []int
	for _, d := range dirs {
		if i, lun, ours := parseBackstore(d); ours && i == iqn {
			luns = append(luns, lun)
		}
	}
	return luns, err
}

// clearStale removes the whole target when a backstore is not what it must be
// and cannot be changed while it is open; the steps that follow make it again.
func (e *Exporter) clearStale(ctx context.Context, t sim.Target) error {
	for n, l := range t.LUNs {
		why, err := e.stale(t.IQN, n, l)
		if err != nil {
			return err
		}
		if why == "" {
			continue
		}
		users, err := e.Sessions(t.IQN)
		if err != nil {
			return err
		}
		if len(users) > 0 {
			return fmt.Errorf("%w: %s: LUN %d %s; log out there first", ErrInUse, strings.Join(users, ", "), n, why)
		}
		return e.remove(ctx, t.IQN)
	}
	return nil
}

// stale says in what an existing backstore differs beyond what can be mended in
// place; empty when it does not.
func (e *Exporter) stale(iqn string, n int, l sim.LUN) (why string, err error) {
	dir := e.backstore(iqn, n)
	s, err := e.inspect(dir)
	if err != nil || !s.enabled {
		return "", err
	}
	if s.file != l.File {
		return fmt.Sprintf("is backed by %s, not by %s", s.file, l.File), nil
	}
	if s.bytes > l.Bytes {
		return fmt.Sprintf("has %d bytes, more than %d", s.bytes, l.Bytes), nil
	}
	linked, err := e.linked(iqn, n)
	if err != nil || !linked {
		return "", err
	}
	for _, a := range identity(l) {
		now, err := e.value(filepath.Join(dir, "wwn", a.name))
		if err != nil {
			return "", err
		}
		if now = strings.TrimPrefix(now, serialPrefix); now != a.value {
			return fmt.Sprintf("has %s %q, not %q", a.name, now, a.value), nil
		}
	}
	return "", nil
}

// attribute is a file in the tree and what it must hold.
type attribute struct{ name, value string }

func identity(l sim.LUN) []attribute {
	return []attribute{{"vendor_id", vendor}, {"product_id", product}, {"revision", revision}, {"vpd_unit_serial", l.Serial}}
}

// backstores makes what is missing, grows what is too small, and finishes what
// a crash left half done.
func (e *Exporter) backstores(_ context.Context, t sim.Target) error {
	for n, l := range t.LUNs {
		if err := e.ensureBackstore(t.IQN, n, l); err != nil {
			return fmt.Errorf("backstore of LUN %d: %w", n, err)
		}
	}
	return nil
}

func (e *Exporter) ensureBackstore(iqn string, n int, l sim.LUN) error {
	dir := e.backstore(iqn, n)
	if err := e.mkBackstore(dir); err != nil {
		return err
	}
	s, err := e.inspect(dir)
	if err != nil {
		return err
	}
	control := filepath.Join(dir, "control")
	switch {
	case !s.enabled:
		// Without fd_buffered_io the file is opened with O_DSYNC and no write cache
		// (WCE) is shown: an array keeps what it acknowledged when it loses power.
		// An initiator that was told of a cache sends its flush again to the array
		// that came back, and never learns that the write before it is gone.
		err = e.tree.Write(control, fmt.Sprintf("fd_dev_name=%s,fd_dev_size=%d", l.File, l.Bytes))
		if err == nil {
			err = e.tree.Write(filepath.Join(dir, "enable"), "1")
		}
	case s.bytes < l.Bytes:
		err = e.tree.Write(control, fmt.Sprintf("fd_dev_size=%d", l.Bytes))
	}
	if err != nil {
		return err
	}
	linked, err := e.linked(iqn, n)
	if err != nil || linked {
		return err // the kernel allows no other change beneath a LUN
	}
	return e.dress(dir, l)
}

// dress gives an enabled backstore, not linked yet, the array's looks.
func (e *Exporter) dress(dir string, l sim.LUN) error {
	for _, a := range identity(l) {
		file := filepath.Join(dir, "wwn", a.name)
		now, err := e.value(file)
		if err != nil {
			return err
		}
		if strings.TrimPrefix(now, serialPrefix) == a.value {
			continue
		}
		if err := e.tree.Write(file, a.value); err != nil {
			return err
		}
	}
	if err := e.put(filepath.Join(dir, "attrib", "block_size"), strconv.Itoa(sector)); err != nil {
		return err
	}
	if !punchable(l.File) {
		return nil
	}
	for _, a := range []attribute{
		{"max_unmap_lba_count", strconv.Itoa(maxUnmap)}, {"emulate_tpu", "1"}, {"emulate_tpws", "1"}, {"unmap_zeroes_data", "1"},
	} {
		err := e.put(filepath.Join(dir, "attrib", a.name), a.value)
		if err != nil && !declined(err) {
			return err
		}
	}
	return nil
}

// declined says the kernel has no such feature, as opposed to a failure.
func declined(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP)
}

// punchable says whether the file system can give freed sectors back. It asks
// for a hole behind the end of the file, which changes nothing.
func punchable(file string) bool {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	st, err := f.Stat()
	if err == nil {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, st.Size(), sector)
	}
	return errors.Join(err, f.Close()) == nil
}

// backstoreState is what the kernel says about a backstore.
type backstoreState struct {
	enabled bool
	file    string
	bytes   int64
}

// inspect reads a backstore; one that does not exist is not enabled.
func (e *Exporter) inspect(dir string) (backstoreState, error) {
	on, err := e.value(filepath.Join(dir, "enable"))
	if errors.Is(err, fs.ErrNotExist) {
		return backstoreState{}, nil
	}
	if err != nil || on != "1" {
		return backstoreState{}, err
	}
	info, err := e.value(filepath.Join(dir, "info"))
	if err != nil {
		return backstoreState{}, err
	}
	s, err := parseInfo(info)
	if err != nil {
		return backstoreState{}, fmt.Errorf("%s: %w", filepath.Join(dir, "info"), err)
	}
	return s, nil
}

// parseInfo reads "… File: /path  Size: 1073741824  Mode: O_DSYNC …". The
// path may hold any of these words, so it ends at the last of them.
func parseInfo(info string) (backstoreState, error) {
	_, rest, found := strings.Cut(info, "File: ")
	i := strings.LastIndex(rest, "  Size: ")
	if !found || i < 0 {
		return backstoreState{}, fmt.Errorf("no file and size in %q", info)
	}
	size, _, _ := strings.Cut(rest[i+len("  Size: "):], " ")
	bytes, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return backstoreState{}, fmt.Errorf("size in %q: %w", info, err)
	}
	return backstoreState{enabled: true, file: rest[:i], bytes: bytes}, nil
}

// mkBackstore and dropEmptyHBA hold hbaMu, so that the last backstore of one
// target does not take the HBA from under the first of another.
func (e *Exporter) mkBackstore(dir string) error {
	e.hbaMu.Lock()
	defer e.hbaMu.Unlock()
	if err := e.mkdir(e.hba); err != nil {
		return err
	}
	return e.mkdir(dir)
}

// dropBackstores removes the backstores of a target from LUN number from on.
func (e *Exporter) dropBackstores(ctx context.Context, iqn string, from int) error {
	luns, err := e.marks(iqn)
	if err != nil {
		return err
	}
	for _, n := range luns {
		if n < from {
			continue
		}
		if err := e.drop(ctx, e.backstore(iqn, n)); err != nil {
			return err
		}
	}
	return e.dropEmptyHBA()
}

func (e *Exporter) dropEmptyHBA() error {
	e.hbaMu.Lock()
	defer e.hbaMu.Unlock()
	err := e.tree.Remove(e.hba)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return err
}
