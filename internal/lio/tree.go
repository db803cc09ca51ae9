package lio

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Tree is the target's configfs tree. Paths are absolute; errors match
// fs.ErrNotExist, fs.ErrExist and the kernel's own errno.
type Tree interface {
	Mkdir(dir string) error
	Remove(path string) error                          // a link, or a directory that is empty but for the kernel's own groups
	Symlink(target, link string) error                 // target must exist
	Write(file, value string) error                    // one write(2) to a file that exists
	Read(file string) (string, error)                  //
	List(dir string) (dirs, links []string, err error) // attributes are left out
}

// Configfs is the real Tree, as the kernel mounts it.
type Configfs struct{}

// Mkdir makes an object of the kernel; its files appear with it.
func (Configfs) Mkdir(dir string) error { return os.Mkdir(dir, 0o750) }

// Remove takes back a Mkdir or a Symlink.
func (Configfs) Remove(path string) error { return os.Remove(path) }

// Symlink tells one object of another.
func (Configfs) Symlink(target, link string) error { return os.Symlink(target, link) }

// Write never creates a file, as configfs has only those the kernel made, and
// its error never holds the value, which may be a secret.
func (Configfs) Write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Read reads a whole file.
func (Configfs) Read(file string) (string, error) {
	b, err := os.ReadFile(file)
	return string(b), err
}

// List reads one directory.
func (Configfs) List(dir string) (dirs, links []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		switch {
		case e.IsDir():
			dirs = append(dirs, e.Name())
		case e.Type()&fs.ModeSymlink != 0:
			links = append(links, e.Name())
		}
	}
	return dirs, links, err
}

// mkdir makes a directory that may be there already.
func (e *Exporter) mkdir(dir string) error {
	if err := e.tree.Mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// link makes a link that may be there already.
func (e *Exporter) link(target, name string) error {
	if err := e.tree.Symlink(target, name); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// drop removes a link or directory that may be gone already. The kernel answers
// EBUSY while it still lets go of the thing; that is waited for.
func (e *Exporter) drop(ctx context.Context, path string) error {
	return until(ctx, "the kernel to let go of "+path, func() (bool, error) {
		err := e.tree.Remove(path)
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist):
			return true, nil
		case errors.Is(err, syscall.EBUSY):
			return false, nil
		}
		return false, err
	})
}

// put writes value unless the file holds it already.
func (e *Exporter) put(file, value string) error {
	now, err := e.value(file)
	if err != nil || now == value {
		return err
	}
	return e.tree.Write(file, value)
}

func (e *Exporter) value(file string) (string, error) {
	s, err := e.tree.Read(file)
	return strings.TrimSuffix(s, "\n"), err
}

// dirs lists the directories in dir, kernel's own groups included; none when dir
// does not exist.
func (e *Exporter) dirs(dir string) ([]string, error) {
	dirs, _, err := e.tree.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return dirs, err
}

// dirsLike is dirs whose names begin with prefix.
func (e *Exporter) dirsLike(dir, prefix string) ([]string, error) {
	dirs, err := e.dirs(dir)
	return slices.DeleteFunc(dirs, func(d string) bool { return !strings.HasPrefix(d, prefix) }), err
}

func (e *Exporter) links(dir string) ([]string, error) {
	_, links, err := e.tree.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return links, err
}

func (e *Exporter) exists(dir, name string) (bool, error) {
	dirs, err := e.dirs(dir)
	return slices.Contains(dirs, name), err
}

// patience bounds every wait for the kernel, below what a caller's ctx allows.
const patience = 30 * time.Second

// until waits for done to say so. It asks at once and then every few
// milliseconds.
func until(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}
