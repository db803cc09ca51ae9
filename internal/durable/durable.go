// Package durable writes small files that a crash or a power failure leaves either as
// they were or as they are to be, with all of their bytes.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Suffix is what the name of a file that is being written ends with beyond its own.
const Suffix = ".new"

// Replace writes a file of mode 0600: after it has returned nil, power may fail, and
// before that the file is as it was, or not there. Calls for one path must not overlap.
func Replace(path string, data []byte) error {
	if err := Write(path+Suffix, data); err != nil {
		return err
	}
	if err := os.Rename(path+Suffix, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Remove takes a file away for good; one that is not there is away. After it has
// returned nil, power may fail.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Write writes a file of mode 0600, or all of one that is there: after it has returned
// nil, its bytes are durable, though its name need not be.
func Write(path string, data []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// MakeDir makes a directory of mode 0700 in one that is durable, or finds it: after it
// has returned nil, power may fail.
func MakeDir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes durable which names a directory has.
func SyncDir(dir string) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}
