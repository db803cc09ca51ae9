package sim

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/datera-csi/datera-csi/internal/durable"
)

// Backing files are sparse and live below the data directory. An array that
// keeps all in memory has none.

func (a *Array) volumeFile(v *volume) string {
	return filepath.Join(a.cfg.DataDir, "volumes", v.UUID+".img")
}

func (a *Array) snapshotFile(v *volume, s *snapshot) string {
	return filepath.Join(a.cfg.DataDir, "snapshots", v.UUID+"@"+s.UTCTS+".img")
}

func (a *Array) hasFiles() bool { return a.cfg.DataDir != "" }

// onFiles leaves work on backing files for after the change. What it makes true is
// shown by done, under the lock, and not before. An array without files is done.
func (r *request) onFiles(work func() error, done func(ok bool)) {
	if !r.array.hasFiles() {
		done(true)
		return
	}
	r.changed.jobs = append(r.changed.jobs, job{work, done})
}

// fill gives a volume's file its content. Until it has that, the target waits. A
// volume that was deleted meanwhile has no file in the end.
func (r *request) fill(v *volume, work func() error, done func()) {
	v.filling = true
	r.onFiles(work, func(ok bool) {
		v.filling = false
		if !r.array.state.has(v) {
			r.dropFile(r.array.volumeFile(v))
		}
		if ok {
			done()
		}
	})
}

// begin makes the file of a new volume.
func (r *request) begin(v *volume, work func() error) {
	v.unmade = r.array.hasFiles()
	r.fill(v, work, func() { v.unmade = false })
}

// makeFile makes the empty file of a new volume. The volume's uuid may still
// change before the work is done, and never afterwards.
func (r *request) makeFile(v *volume) {
	size := v.SizeGiB << 30
	r.begin(v, func() error { return growFile(r.array.volumeFile(v), size, os.O_CREATE) })
}

// grow makes a volume larger, once its file is.
func (r *request) grow(v *volume, to int64) {
	file := r.array.volumeFile(v)
	v.growing++
	r.onFiles(func() error { return growFile(file, to<<30, 0) }, func(ok bool) {
		v.growing--
		if ok {
			v.SizeGiB = max(v.SizeGiB, to)
			v.busy(r.now, r.array.cfg.ResizeDelay, "volume_resize_in_progress")
		}
	})
	r.export(v.si)
}

// copyVolume gives a clone the data of its source.
func (r *request) copyVolume(from *volume, s *snapshot, to *volume) {
	src := r.array.volumeFile(from)
	if s != nil {
		src = r.array.snapshotFile(from, s)
	}
	size := to.SizeGiB << 30
	r.begin(to, func() error { return copyFile(src, r.array.volumeFile(to), size) }) // only now its uuid is settled
}

// restoreFile puts a snapshot's data in the place of a volume's.
func (r *request) restoreFile(v *volume, s *snapshot, done func()) {
	src, dst, size := r.array.snapshotFile(v, s), r.array.volumeFile(v), v.SizeGiB<<30
	r.fill(v, func() error { return copyFile(src, dst, size) }, done)
	r.export(v.si) // it may have gone online meanwhile
}

// copySnapshot copies the data of every volume that a snapshot covers. Of what was
// deleted meanwhile no copy stays.
func (r *request) copySnapshot(o snapshotOwner, s *snapshot) {
	s.copying = true
	files := map[string]string{}
	for _, v := range o.volumes {
		files[r.array.volumeFile(v)] = r.array.snapshotFile(v, s)
	}
	r.onFiles(func() error {
		for src, dst := range files {
			if err := copyFile(src, dst, 0); err != nil {
				return err
			}
		}
		return nil
	}, func(bool) {
		s.copying = false
		for _, v := range o.volumes {
			if !r.holds(o, s) || !r.array.state.has(v) {
				r.dropFile(r.array.snapshotFile(v, s))
			}
		}
	})
}

// dropFile removes a file once nothing refers to it any more.
func (r *request) dropFile(file string) {
	if r.array.hasFiles() {
		r.changed.files = append(r.changed.files, file)
	}
}

// dropFilesOf removes all files of a volume.
func (r *request) dropFilesOf(v *volume) {
	for _, s := range v.si.app.Snapshots {
		r.dropFile(r.array.snapshotFile(v, s))
	}
	for _, s := range v.Snapshots {
		r.dropFile(r.array.snapshotFile(v, s))
	}
	r.dropFile(r.array.volumeFile(v))
}

func removeFiles(files []string) error {
	for _, file := range files {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove a backing file: %w", err)
		}
	}
	return nil
}

// usedBytes is what a volume's file really occupies; without a file it is what
// a test says.
func (a *Array) usedBytes(v *volume) int64 {
	if !a.hasFiles() {
		return v.UsedBytes
	}
	var stat syscall.Stat_t
	if err := syscall.Stat(a.volumeFile(v), &stat); err != nil {
		return 0 // the file is still being made
	}
	return stat.Blocks * 512
}

// growFile makes a file at least size long; it never shortens one. Only with
// O_CREATE it makes one: nothing but zeros would be in the place of a lost one.
func growFile(path string, size int64, create int) error {
	f, err := os.OpenFile(path, create|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("make a backing file: %w", err)
	}
	if err = errors.Join(lengthen(f, size), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("grow a backing file: %w", err)
	}
	return nil
}

func lengthen(f *os.File, size int64) error {
	info, err := f.Stat()
	if err != nil || info.Size() >= size {
		return err
	}
	return f.Truncate(size)
}

// copyFile copies a sparse file by sharing its blocks where the file system can
// do that, else by copying what is not a hole. The copy is as long as the file, or
// size if that is more, and appears under its name only when it is whole.
func copyFile(from, to string, size int64) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("copy backing file %s: %w", from, err)
		}
	}()
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	partial := to + ".part"
	dst, err := os.OpenFile(partial, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return errors.Join(err, src.Close())
	}
	if err = errors.Join(fillFile(src, dst), lengthen(dst, size), dst.Sync(), dst.Close(), src.Close()); err != nil {
		return errors.Join(err, os.Remove(partial))
	}
	if err = os.Rename(partial, to); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(to))
}

func fillFile(src, dst *os.File) error {
	const ficlone = 0x40049409
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, dst.Fd(), ficlone, src.Fd())
	if errno == 0 {
		return nil
	}
	if !cannotShare(errno) {
		return fmt.Errorf("share blocks: %w", errno)
	}
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		start, end, err := nextData(src, at)
		if errors.Is(err, syscall.ENXIO) {
			return nil // nothing but a hole follows
		}
		if err != nil {
			return err
		}
		if err := copyRange(src, dst, start, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// cannotShare tells a file system that does not share blocks from a failure: a copy,
// which takes its time, is not of one moment.
func cannotShare(errno syscall.Errno) bool {
	switch errno {
	case syscall.EOPNOTSUPP, syscall.EXDEV, syscall.EINVAL, syscall.ENOTTY, syscall.ENOSYS:
		return true
	default:
		return false
	}
}

// nextData finds the next extent of data at or after a place.
func nextData(f *os.File, at int64) (start, end int64, err error) {
	const seekData, seekHole = 3, 4
	if start, err = f.Seek(at, seekData); err != nil {
		return 0, 0, err
	}
	end, err = f.Seek(start, seekHole)
	return start, end, err
}

func copyRange(src, dst *os.File, start, end int64) error {
	if _, err := src.Seek(start, io.SeekStart); err != nil {
		return err
	}
	if _, err := dst.Seek(start, io.SeekStart); err != nil {
		return err
	}
	_, err := io.CopyN(dst, src, end-start)
	return err
}
