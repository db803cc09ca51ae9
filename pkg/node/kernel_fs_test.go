package node_test

import (
	"context"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/internal/filesystem"
)

// kernelHuge is FM 35: a thin volume of 64 TiB is formatted in seconds and stays
// thin, and grows while it is mounted.
func kernelHuge(t *testing.T, fs string) {
	const tib = int64(1) << 40
	if testing.Short() {
		t.Skip("it writes gigabytes")
	}
	m, l := newKernel(t)
	// No other file system here has files of that size.
	store, image := filepath.Join(m.dir, "store"), filepath.Join(m.dir, "image")
	ok(t, os.Mkdir(store, 0o700), os.WriteFile(image, nil, 0o600), os.Truncate(image, 16*gib))
	for _, argv := range [][]string{{"mkfs.xfs", "-q", image}, {"mount", "-o", "loop", image, store}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", argv, err, out)
		}
	}
	t.Cleanup(func() {
		for iqn := range l.attached {
			_ = l.Detach(context.Background(), m.kernelVolume(strings.TrimPrefix(iqn, "iqn.x:"), fs).target)
		}
		ok(t, unix.Unmount(store, 0))
	})
	l.dir = store

	v := m.kernelVolume("huge", fs)
	v.target.Bytes, v.context.Target.Bytes = 64*tib, 64*tib
	limit := time.Minute
	if inGuest() {
		limit = 5 * time.Minute // its processor is emulated; with discards it would be hours there, too
	}
	began := time.Now()
	for v.stage() != nil && time.Since(began) < 2*limit { // a call is given less time than that; the repeat joins the mkfs
		time.Sleep(100 * time.Millisecond)
	}
	took := time.Since(began)
	ok(t, v.stage())
	var st unix.Stat_t
	ok(t, unix.Stat(l.file(v.target), &st))
	allocated := st.Blocks * 512
	t.Logf("64 TiB of %s: %v, %d MiB allocated", fs, took.Round(time.Millisecond), allocated>>20)
	if took > limit || allocated > 3*gib {
		t.Errorf("64 TiB of %s took %v and %d bytes, want less than %v and 3 GiB", fs, took, allocated, limit)
	}
	if fs == "xfs" || mayGrowExt4(t) {
		ok(t, os.Truncate(l.file(v.target), 65*tib))
		_, err := v.expand(v.staging, 65*tib)
		ok(t, err)
	}
	ok(t, v.unstage())
}

// kernelDamaged is FM 16 with what the kernel and the checkers really say.
func kernelDamaged(t *testing.T, fs string) {
	for _, policy := range []filesystem.Fsck{"", filesystem.FsckCheck, filesystem.FsckPreen} {
		m, l := newKernel(t)
		v := m.kernelVolume("a", fs)
		v.context.Filesystem.Fsck = policy
		ok(t, v.stage(), os.WriteFile(filepath.Join(v.staging, "file"), []byte("kept"), 0o600), v.unstage())
		offset := int64(512) // of xfs: the head of the free space
		if fs == "ext4" {
			offset = 4096 + 0x1e // checksum of the first group
		}
		f, err := os.OpenFile(l.file(v.target), os.O_WRONLY, 0)
		ok(t, err)
		_, err = f.WriteAt([]byte("\xff\xff"), offset)
		ok(t, err, f.Close())

		switch err := v.stage(); {
		case policy == "":
			want(t, err, codes.FailedPrecondition, "the file system is damaged", "fsck: check")
		case fs == "xfs":
			want(t, err, codes.FailedPrecondition, "the file system is damaged", "xfs_repair -n says", "No modify flag set")
		case policy == filesystem.FsckCheck:
			want(t, err, codes.FailedPrecondition, "the file system is damaged", "e2fsck -f -n", "checksums are invalid")
		default:
			ok(t, err)
			if data, err := os.ReadFile(filepath.Join(v.staging, "file")); err != nil || string(data) != "kept" {
				t.Errorf("after the repair: %q, %v", data, err)
			}
		}
		ok(t, v.unstage())
	}
}

// kernelReaders is FM 18: what is staged for reading only cannot be written at all,
// not through the mount and not through the device.
func kernelReaders(t *testing.T, fs string) {
	m, l := newKernel(t)
	v := m.kernelVolume("a", fs)
	ok(t, v.stage(), v.unstage())
	v.cap = mountCap(fs, csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)
	ok(t, v.stage(), v.publish())
	if err := scribble(l.attached[v.target.IQN].Path); !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EROFS) {
		t.Errorf("writing to the device: got %v, want to be refused", err)
	}
	ok(t, v.unpublish(), v.unstage())
	v.cap = mountCap(fs, writer)
	ok(t, v.stage(), os.WriteFile(filepath.Join(v.staging, "file"), nil, 0o600), v.unstage())
}

// kernelDirty is FM 16 and 18 of a copy that was taken of a mounted file system: a
// reader leaves every byte as it is, and a writer has what only the journal held.
func kernelDirty(t *testing.T, fs string) {
	m, l := newKernel(t)
	source, dirty := m.kernelVolume("source", fs), m.kernelVolume("copy", fs)
	for _, v := range []*volume{source, dirty} {
		v.target.Bytes, v.context.Target.Bytes = gib/2, gib/2
	}
	dirty.context.FromSource = true
	ok(t, source.stage())
	f, err := os.Create(filepath.Join(source.staging, "file"))
	ok(t, err)
	_, err = f.WriteString("synced")
	ok(t, err, f.Sync(), f.Close())
	file := l.file(dirty.target)
	ok(t, exec.Command("cp", "--sparse=always", l.file(source.target), file).Run(), source.unstage())

	before := sumOf(t, file)
	dirty.cap = mountCap(fs, csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)
	ok(t, dirty.stage(), dirty.publish())
	_, err = os.ReadDir(dirty.path)
	ok(t, err, dirty.unpublish(), dirty.unstage())
	if sumOf(t, file) != before {
		t.Error("a reader has written")
	}
	dirty.cap = mountCap(fs, writer)
	ok(t, dirty.stage())
	if data, err := os.ReadFile(filepath.Join(dirty.staging, "file")); err != nil || string(data) != "synced" {
		t.Errorf("a writer reads %q, %v", data, err)
	}
	ok(t, dirty.unstage())
	if sumOf(t, file) == before {
		t.Error("no journal was replayed, so that this test shows nothing")
	}
}

func sumOf(t *testing.T, file string) uint32 {
	t.Helper()
	f, err := os.Open(file)
	ok(t, err)
	sum := crc32.NewIEEE()
	_, err = io.Copy(sum, f)
	ok(t, err, f.Close())
	return sum.Sum32()
}

// kernelRawReaders is kernelReaders for a device file.
func kernelRawReaders(t *testing.T) {
	m, _ := newKernel(t)
	v := m.kernelVolume("raw", "")
	v.cap = blockCap(writer)
	v.ro = true
	ok(t, v.stage(), v.publish())
	if err := scribble(v.path); !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EROFS) {
		t.Errorf("writing through the read-only target: got %v, want to be refused", err)
	}
	v.ro = false
	ok(t, v.publishAt(v.path+" rw"), scribble(v.path+" rw"))
	ok(t, v.unpublishAt(v.path+" rw"), v.unpublish(), v.unstage())
}

func scribble(device string) error {
	f, err := os.OpenFile(device, os.O_WRONLY|os.O_SYNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, 4096), 1<<20)
	return errors.Join(err, f.Close())
}
