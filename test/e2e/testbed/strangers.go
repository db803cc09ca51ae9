package testbed

import (
	"context"
	"fmt"
)

// stranger begins the names of targets that are not the product's.
const stranger = "iqn.2001-04.com.stranger:"

// StartStrangers gives a worker sessions to this many targets of somebody else, on
// both networks. They carry no disks: what counts is that they are there.
func (b *Bed) StartStrangers(ctx context.Context, w *Worker, targets int) error {
	_, err := b.Array.Shell(ctx, fmt.Sprintf(`cd /sys/kernel/config/target/iscsi
for n in $(seq %d); do
	tpg=%s$n/tpgt_1
	mkdir -p $tpg/np/%s:3261 $tpg/np/%s:3261
	echo 0 > $tpg/attrib/authentication; echo 1 > $tpg/attrib/generate_node_acls; echo 1 > $tpg/enable
done`, targets, stranger, b.Array.Addr(0), b.Array.Addr(1)))
	if err != nil {
		return fmt.Errorf("make targets of others: %w", err)
	}
	_, err = w.Shell(ctx, fmt.Sprintf(`
for n in $(seq %d); do for portal in %s:3261 %s:3261; do
	iscsiadm -m node -T %s$n -p $portal -o new >/dev/null
done; done
iscsiadm -m node -p %[2]s:3261 --login >/dev/null
iscsiadm -m node -p %[3]s:3261 --login >/dev/null`, targets, b.Array.Addr(0), b.Array.Addr(1), stranger))
	if err != nil {
		return fmt.Errorf("log in to targets of others: %w", err)
	}
	return nil
}

// EndStrangers undoes StartStrangers.
func (b *Bed) EndStrangers(ctx context.Context, w *Worker) error {
	_, err := w.Shell(ctx, fmt.Sprintf(`
for portal in %s:3261 %s:3261; do
	iscsiadm -m node -p $portal --logout >/dev/null || true
	iscsiadm -m node -p $portal -o delete
done`, b.Array.Addr(0), b.Array.Addr(1)))
	if err != nil {
		return fmt.Errorf("end sessions of others: %w", err)
	}
	_, err = b.Array.Shell(ctx, `cd /sys/kernel/config/target/iscsi
for target in `+stranger+`*; do rmdir $target/tpgt_1/np/* $target/tpgt_1 $target; done`)
	if err != nil {
		return fmt.Errorf("remove targets of others: %w", err)
	}
	return nil
}
