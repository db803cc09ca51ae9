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

// quarantine is where unsound node records are moved, beside the tree that
// iscsiadm reads. What is there may hold a secret, like the records themselves.
const quarantine = ".datera-csi-quarantine"

// UnsoundRecord is a node record that iscsiadm cannot read. One such record makes
// calls fail that are about other targets (FM 29).
type UnsoundRecord struct{ IQN, Path string }

// UnsoundRecords lists them, whosever they are.
func (i *Initiator) UnsoundRecords(ctx context.Context) ([]UnsoundRecord, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var found []UnsoundRecord
	for _, base := range i.admin.records.databases() {
		targets, err := os.ReadDir(filepath.Join(base, "nodes"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list the node records: %w", err)
		}
		for _, t := range targets {
			all, err := i.admin.records.below(base, filepath.Join(base, "nodes", t.Name()))
			if err != nil {
				return nil, fmt.Errorf("list the node records: %w", err)
			}
			for _, r := range all {
				if !r.whole(t.Name()) {
					found = append(found, UnsoundRecord{IQN: t.Name(), Path: r.path})
				}
			}
		}
	}
	slices.SortFunc(found, func(a, b UnsoundRecord) int { return strings.Compare(a.Path, b.Path) })
	return found, nil
}

// SetAside moves the unsound node records of a target, which must be the caller's
// own, out of iscsiadm's sight, and returns where they are now. Iscsiadm does not
// write its files in one piece, so a record counts only when it is unsound twice.
func (i *Initiator) SetAside(ctx context.Context, iqn string) ([]string, error) {
	const between = 200 * time.Millisecond
	if err := (Target{IQN: iqn}).check(); err != nil {
		return nil, err
	}
	unlock, err := i.admin.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	first, err := i.unsound(iqn)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	_, err = until(ctx, between, func() (bool, error) { return false, nil })
	if err != nil {
		return nil, err
	}
	again, err := i.unsound(iqn)
	if err != nil {
		return nil, err
	}
	var moved []string
	for _, r := range again {
		if !slices.ContainsFunc(first, func(f record) bool { return f.path == r.path }) {
			continue
		}
		to, err := r.setAside()
		if err != nil {
			return moved, err
		}
		moved = append(moved, to)
	}
	return moved, nil
}

func (i *Initiator) unsound(iqn string) ([]record, error) {
	all, err := i.admin.records.list(iqn)
	return slices.DeleteFunc(all, func(r record) bool { return r.sound(iqn) }), err
}

// setAside moves the record, and removes the directories it leaves empty.
func (r record) setAside() (string, error) {
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
