package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/datera-csi/datera-csi/internal/faultpoint"
	"github.com/datera-csi/datera-csi/internal/filesystem"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// evidence is all that decides whether a file system is made on a device.
type evidence struct {
	Asked   string  // xfs or ext4
	Any     bool    // nobody asked: Asked is for an empty device
	Content content // as read from the device
	Blkid   blkid   // as blkid sees it

	Serial     string
	Bytes      int64  // of the device
	Format     format // what this node knows of an earlier one
	KnownFrom  string // the file that says so
	FromSource bool   // the volume began as a copy
	UsedBytes  int64  // what the array had written for it when it was published
	ReadOnly   bool   // of the LUN or of the mount
}

// verdict is what to do with a device.
type verdict int

const (
	refuse   verdict = iota // the zero value is the safe one
	mountIt                 // it holds the file system that was asked for
	makeNew                 // it is proven empty
	makeOver                // it holds the rest of a mkfs of ours that was interrupted, and nothing else
)

// decide is the only place that permits a mkfs (FM 1). It is pure.
func decide(e evidence) (verdict, error) {
	switch {
	case e.Content.Complete:
		return decideExisting(e)
	case e.Content.Empty:
		return decideEmpty(e)
	default:
		return decideUnknown(e)
	}
}

func decideExisting(e evidence) (verdict, error) {
	own, other := e.Content.Name, e.Blkid
	agree := !other.Nothing && (own == other.Type || own == nameExt && strings.HasPrefix(other.Type, "ext"))
	switch {
	case !agree:
		return refuse, fmt.Errorf("%w: the device begins like %s, but blkid finds %s; look at it before anything is written", errForeign, own, other)
	case other.Type != e.Asked && (!e.Any || other.Type != fsXFS && other.Type != fsExt4):
		return refuse, fmt.Errorf("%w: the device holds %s, and %s was asked for; ask for %s, or for another volume", errOtherFS, other.Type, e.Asked, other.Type)
	case e.Content.Bytes > e.Bytes:
		return refuse, fmt.Errorf("%w: the %s on the device has %d bytes, the device only %d; was the volume shrunk?", errForeign, other.Type, e.Content.Bytes, e.Bytes)
	}
	return mountIt, nil
}

func decideEmpty(e evidence) (verdict, error) {
	begun := e.Format.State == formatStarted && e.Format.Serial == e.Serial && e.UsedBytes <= invisible(e.Format.FSType, e.Bytes)
	switch {
	case !e.Blkid.Nothing:
		return refuse, fmt.Errorf("%w: every sample of the device is zero, but blkid finds %s", errRefused, e.Blkid)
	case e.Format.State == formatFinished && e.Format.Serial == e.Serial:
		return refuse, fmt.Errorf("%w: this node found or made %s there on %s, and now the device reads as empty: its data is lost or not readable; look at the array before anything is written; if it was emptied on purpose, remove %s on this node",
			errRefused, e.Format.FSType, e.Format.Time.UTC().Format(time.DateTime), e.KnownFrom)
	case e.FromSource:
		return refuse, fmt.Errorf("%w: the volume is a copy of a snapshot or of another volume, and it reads as empty; was the source ever used as %s?", errRefused, e.Asked)
	case e.UsedBytes > 0 && !begun:
		return refuse, fmt.Errorf("%w: the array holds %d bytes written to this volume, and the device reads as empty: look at the array before anything is written", errRefused, e.UsedBytes)
	case e.ReadOnly:
		return refuse, fmt.Errorf("%w: the volume is empty and was asked for read-only; let a writer use it first", errRefused)
	}
	return makeNew, nil
}

// decideUnknown knows one thing that may be overwritten: what a mkfs of ours left
// when it was killed. The record must say that it began, on this very device and
// for this very file system; the device must look like it; and the array must not
// hold more than a mkfs writes.
func decideUnknown(e evidence) (verdict, error) {
	began := e.Format.State == formatStarted && e.Format.Serial == e.Serial && e.Format.FSType == e.Asked
	small := e.UsedBytes <= footprint(e.Bytes)
	var looksLikeIt bool
	switch e.Asked {
	case fsXFS:
		looksLikeIt = e.Content.InProgress && (e.Blkid.Nothing || e.Blkid.Type == fsXFS)
	case fsExt4:
		looksLikeIt = e.Content.Name == "" && e.Content.HeadWiped && e.Blkid.Nothing
	}
	if began && small && looksLikeIt && !e.FromSource && !e.ReadOnly {
		return makeOver, nil
	}
	what := "something that is neither empty nor known"
	if e.Content.Name != "" {
		what = "a damaged or unfinished " + e.Content.Name
		if e.Content.Name != nameXFS && e.Content.Name != nameExt {
			what = e.Content.Name
		}
	}
	return refuse, fmt.Errorf("%w: the device holds %s (first byte that is not zero in the sample at offset %d; blkid finds %s), and %s was asked for; nothing was written; if the volume never held data, delete it and make a new one",
		errRefused, what, e.Content.NonZeroAt, e.Blkid, e.Asked)
}

// footprint is more than any mkfs here writes to a device of this size: an xfs log
// is at most 2 GiB and about 1/2048, the headers of groups and inode tables are
// less.
func footprint(bytes int64) int64 { return 256*mib + bytes/512 }

// invisible is more than a mkfs writes before the samples show something: mkfs.xfs
// wipes a few places and begins with the superblock; mke2fs may have zeroed the journal
// and tables, and writes its superblock last.
func invisible(fsType string, bytes int64) int64 {
	if fsType == fsXFS {
		return 4 * mib
	}
	return footprint(bytes)
}

// blkid is what blkid -p says of a device.
type blkid struct {
	Nothing   bool   // it looked and found nothing
	Ambiguous bool   // it found more than one thing
	Type      string // of a superblock, e.g. xfs
	Table     string // of partitions, e.g. gpt
}

func (b blkid) String() string {
	switch {
	case b.Nothing:
		return "nothing"
	case b.Ambiguous:
		return "more than one format"
	case b.Type != "":
		return b.Type
	case b.Table != "":
		return "a partition table " + b.Table
	}
	return "something without a name"
}

// runBlkid asks blkid. Its exit code 2 means nothing found as well as not readable;
// the caller has read the device before and knows which.
func (s *Server) runBlkid(ctx context.Context, device string) (blkid, error) {
	const nothing, ambiguous = 2, 8
	out, err := s.runner.Run(ctx, "blkid", "-p", "-o", "export", device)
	var exit *iscsi.ExitError
	switch {
	case err == nil:
		return parseBlkid(string(out)), nil
	case errors.As(err, &exit) && exit.Code == nothing && len(out) == 0:
		return blkid{Nothing: true}, nil
	case errors.As(err, &exit) && exit.Code == ambiguous:
		return blkid{Ambiguous: true}, nil
	}
	return blkid{}, fmt.Errorf("ask blkid what %s holds: %w", device, err)
}

func parseBlkid(out string) blkid {
	var b blkid
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "TYPE":
			b.Type = value
		case "PTTYPE":
			b.Table = value
		}
	}
	return b
}

// look reads the device and asks blkid.
func (s *Server) look(ctx context.Context, device iscsi.Device, least int64) (c content, b blkid, err error) {
	err = s.whileClaimed(device, least, func(disk Disk) error {
		if c, err = readContent(disk, device.Bytes); err != nil {
			return fmt.Errorf("read %s: %w", device.Path, err)
		}
		b, err = s.runBlkid(ctx, device.Path)
		return err
	})
	return c, b, err
}

// whileClaimed runs fn on a device that nothing else uses meanwhile, see claim.
func (s *Server) whileClaimed(device iscsi.Device, least int64, fn func(Disk) error) (err error) {
	disk, err := s.claim(device, least)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Close()) }() // after a panic, too
	return fn(disk)
}

// claim opens a device that is as large as it was when it was attached, and no
// smaller than promised. Until it is closed nothing else uses it; one that something
// uses is ErrHeld.
func (s *Server) claim(device iscsi.Device, least int64) (Disk, error) {
	disk, err := s.devices.Claim(device.Path)
	if err != nil {
		return nil, err
	}
	size, err := disk.Size()
	switch {
	case err != nil:
		err = fmt.Errorf("size of %s: %w", device.Path, err)
	case size != device.Bytes || size < least:
		err = fmt.Errorf("%w: %s has %d bytes, attached were %d, promised are %d", errForeign, device.Path, size, device.Bytes, least)
	default:
		return disk, nil
	}
	return nil, errors.Join(err, disk.Close())
}

// ensureFilesystem makes the file system that was asked for, or finds it.
func (s *Server) ensureFilesystem(ctx context.Context, rec *record, device iscsi.Device, r stageRequest) error {
	c, b, err := s.look(ctx, device, rec.Target.Bytes)
	if err != nil {
		return err
	}
	known, file, err := s.records.format(rec.Target.Serial)
	if err != nil {
		return err
	}
	v, err := decide(evidence{
		Asked: rec.FSType, Any: r.Capability.AnyFSType, Content: c, Blkid: b,
		Serial: rec.Target.Serial, Bytes: device.Bytes, Format: known, KnownFrom: file,
		FromSource: r.Context.FromSource, UsedBytes: r.Context.UsedBytes, ReadOnly: rec.ReadOnly,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", device.Path, err)
	}
	if v == mountIt {
		if rec.FSType != b.Type { // that was only the default
			rec.FSType = b.Type
			if err = s.records.save(rec); err != nil {
				return err
			}
		}
		if known.State == formatFinished && known.FSType == rec.FSType {
			return nil
		}
		return s.noteFormat(rec, formatFinished)
	}
	argv, err := s.mkfsArguments(ctx, rec.FSType, device.Path, r.Context.Filesystem, v == makeOver)
	if err != nil {
		return err
	}
	if err := s.noteFormat(rec, formatStarted); err != nil {
		return err
	}
	faultpoint.At("stage: format begun")
	if err := s.makeFilesystem(ctx, argv); err != nil {
		return fmt.Errorf("make %s on %s: %w", rec.FSType, device.Path, err)
	}
	faultpoint.At("stage: file system made")
	if err := s.checkMade(rec, device); err != nil {
		return err
	}
	return s.noteFormat(rec, formatFinished)
}

// noteFormat remembers how far a file system is, for the later stages of this device.
func (s *Server) noteFormat(rec *record, state formatState) error {
	return s.records.saveFormat(format{State: state, FSType: rec.FSType, Serial: rec.Target.Serial, Time: s.clock().UTC()})
}

// mkfsArguments is the mkfs that the class asks for. mkfs.xfs refuses by itself a
// device on which it finds something; it is forced only over its own interrupted
// work.
func (s *Server) mkfsArguments(ctx context.Context, fsType, device string, class filesystem.Class, over bool) ([]string, error) {
	machine := filesystem.Machine{Kernel: s.kernel}
	if fsType == fsXFS {
		out, err := s.runner.Run(ctx, "mkfs.xfs", "-V")
		if err != nil {
			return nil, fmt.Errorf("ask mkfs.xfs for its version: %w", err)
		}
		if machine.Mkfs, err = filesystem.ParseMkfsVersion(string(out)); err != nil {
			return nil, err
		}
	}
	argv, err := filesystem.MkfsArguments(fsType, device, class, machine, over)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRefused, err)
	}
	return argv, nil
}

func (s *Server) makeFilesystem(ctx context.Context, argv []string) error {
	ctx, cancel := context.WithTimeout(ctx, s.formatTimeout)
	defer cancel()
	_, err := s.runner.Run(ctx, argv...)
	return err
}

// checkMade looks again: what mkfs said is not yet what the device holds. It reads
// for itself; a second opinion is wanted only before something may be overwritten.
func (s *Server) checkMade(rec *record, device iscsi.Device) error {
	return s.whileClaimed(device, rec.Target.Bytes, func(disk Disk) error {
		c, err := readContent(disk, device.Bytes)
		if err != nil {
			return fmt.Errorf("read %s: %w", device.Path, err)
		}
		name := rec.FSType
		if name == fsExt4 {
			name = nameExt
		}
		if !c.Complete || c.Name != name || c.Bytes > device.Bytes {
			return fmt.Errorf("%w: %s was made on %s, but the device does not show it; look at the array", ErrDamaged, rec.FSType, device.Path)
		}
		return nil
	})
}
