package iscsi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// quarantine is where corrupt node records are moved, beside the tree that
// iscsiadm reads. What is there may hold a secret, like the records themselves.
const quarantine = ".datera-csi-quarantine"

// CorruptNodeRecord is a node record that iscsiadm cannot read. One such record makes
// calls fail that are about other targets (FM 29).
type CorruptNodeRecord struct{ IQN, Path string }

// CorruptNodeRecords lists them, whosever they are.
func (i *Initiator) CorruptNodeRecords(ctx context.Context) ([]CorruptNodeRecord, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var found []CorruptNodeRecord
	for _, base := range i.iscsiadm.db.databases() {
		targets, err := os.ReadDir(filepath.Join(base, "nodes"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list the node records: %w", err)
		}
		for _, t := range targets {
			all, err := i.iscsiadm.db.below(base, filepath.Join(base, "nodes", t.Name()))
			if err != nil {
				return nil, fmt.Errorf("list the node records: %w", err)
			}
			for _, r := range all {
				if !r.complete(t.Name()) {
					found = append(found, CorruptNodeRecord{IQN: t.Name(), Path: r.path})
				}
			}
		}
	}
	slices.SortFunc(found, func(a, b CorruptNodeRecord) int { return strings.Compare(a.Path, b.Path) })
	return found, nil
}

// QuarantineNodeRecords moves the corrupt node records of a target, which must be the
// caller's own, out of iscsiadm's sight, and returns where they are now. Iscsiadm does
// not write its files in one piece, so a record counts only when it is corrupt twice.
func (i *Initiator) QuarantineNodeRecords(ctx context.Context, iqn string) ([]string, error) {
	const between = 200 * time.Millisecond
	if err := (Target{IQN: iqn}).check(); err != nil {
		return nil, err
	}
	unlock, err := i.iscsiadm.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	first, err := i.corruptNodeRecords(iqn)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	_, err = until(ctx, between, func() (bool, error) { return false, nil })
	if err != nil {
		return nil, err
	}
	again, err := i.corruptNodeRecords(iqn)
	if err != nil {
		return nil, err
	}
	var moved []string
	for _, r := range again {
		if !slices.ContainsFunc(first, func(f nodeRecord) bool { return f.path == r.path }) {
			continue
		}
		to, err := r.quarantine()
		if err != nil {
			return moved, err
		}
		moved = append(moved, to)
	}
	return moved, nil
}

func (i *Initiator) corruptNodeRecords(iqn string) ([]nodeRecord, error) {
	all, err := i.iscsiadm.db.list(iqn)
	return slices.DeleteFunc(all, func(r nodeRecord) bool { return r.intact(iqn) }), err
}

// quarantine moves the record, and removes the directories it leaves empty.
func (r nodeRecord) quarantine() (string, error) {
	below, err := filepath.Rel(filepath.Join(r.base, "nodes"), r.path)
	if err != nil {
		return "", fmt.Errorf("set node record %s aside: %w", r.path, err)
	}
	to := filepath.Join(r.base, quarantine, strings.ReplaceAll(below, "/", "_")+time.Now().UTC().Format(".20060102T150405.000000000"))
	err = os.MkdirAll(filepath.Dir(to), 0o700)
	if err == nil {
		err = os.Rename(r.path, to)
	}
	if err != nil {
		return "", fmt.Errorf("set node record %s aside: %w", r.path, err)
	}
	return to, r.remove() // of which only the empty directories are left
}
