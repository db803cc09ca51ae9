// Package filesystem holds what a class of volumes may say of its file systems:
// options of mkfs and of mount, the oldest kernel that must be able to mount
// them, and what to do with one that is damaged. It is pure. The controller asks
// it before a volume is made, the node before anything is run.
package filesystem

import (
	"fmt"
	"slices"
	"strings"
)

// The file systems there are.
const (
	XFS  = "xfs"
	Ext4 = "ext4"
)

// Default is the file system of a volume whose capability names none.
const Default = XFS

// Keys of a StorageClass, of a volume_context and of a publish_context: a class
// is written alike in all three.
const (
	KeyOptions = "mkfsOptions"
	KeyOldest  = "oldestKernel"
	KeyFsck    = "fsck"
)

// Keys lists the keys of a Class.
func Keys() []string { return []string{KeyOptions, KeyOldest, KeyFsck} }

// Class is what a class of volumes says of its file systems.
type Class struct {
	Options string // of mkfs, as they were written
	Oldest  Kernel // that must mount them; zero: baselineKernel
	Fsck    Fsck
}

// Fsck is what is done with a file system that the kernel refuses to mount
// because it is damaged. Nothing is ever checked before the kernel has refused:
// a journal that was not replayed looks damaged to every checker, and the mount
// replays it (FM 16).
type Fsck string

// The policies.
const (
	FsckNever Fsck = "never" // the error is all; the zero value is the same
	FsckCheck Fsck = "check" // a checker that writes nothing looks, and the error says what it found
	FsckPreen Fsck = "preen" // as e2fsck -p repairs without a question; xfs is only checked
)

// fsckValues lists the policies.
func fsckValues() []string {
	return []string{string(FsckNever), string(FsckCheck), string(FsckPreen)}
}

// Parse reads the keys of a Class among those of m and leaves the others alone.
func Parse(m map[string]string) (Class, error) {
	c := Class{Options: m[KeyOptions]}
	var err error
	if text := m[KeyOldest]; text != "" {
		if c.Oldest, err = ParseKernel(text); err != nil {
			return Class{}, fmt.Errorf("%s %q %w", KeyOldest, text, err)
		}
	}
	if text := m[KeyFsck]; text != "" {
		if !slices.Contains(fsckValues(), text) {
			return Class{}, fmt.Errorf("%s %q is none of %s", KeyFsck, text, strings.Join(fsckValues(), ", "))
		}
		c.Fsck = Fsck(text)
	}
	if c.Oldest == baselineKernel() { // what is the default is as if it had not been said
		c.Oldest = Kernel{}
	}
	if c.Fsck == FsckNever {
		c.Fsck = ""
	}
	return c, nil
}

// Write is the inverse of Parse. What is as if it had not been said stays out.
func (c Class) Write(m map[string]string) {
	for key, value := range map[string]string{KeyOptions: c.Options, KeyOldest: c.Oldest.String(), KeyFsck: string(c.Fsck)} {
		if value != "" {
			m[key] = value
		}
	}
}

func (c Class) oldest() Kernel {
	if c.Oldest == (Kernel{}) {
		return baselineKernel()
	}
	return c.Oldest
}

// CheckFor says whether file systems of this type can be made as the class says.
// The error names the option and the reason.
func (c Class) CheckFor(fsType string) error {
	options, err := parseOptions(fsType, c.Options)
	if err != nil {
		return fmt.Errorf("%s: %w", KeyOptions, err)
	}
	if err := options.mountableBy(c.oldest()); err != nil {
		return fmt.Errorf("%s: %w, and %s of the class is %s", KeyOptions, err, KeyOldest, c.oldest())
	}
	return nil
}
