package iscsi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// The kernel's device-mapper interface (linux/dm-ioctl.h), as far as it says what
// table a map has, passes a message to its target, and resumes it.
const (
	dmControl     = "/dev/mapper/control"
	dmSuspend     = 0xc138fd06 // DM_DEV_SUSPEND; without DM_SUSPEND_FLAG it resumes
	dmTableStatus = 0xc138fd0c // DM_TABLE_STATUS: _IOWR(0xfd, 12, struct dm_ioctl)
	dmTargetMsg   = 0xc138fd0e // DM_TARGET_MSG

	dmHeader      = 312 // sizeof(struct dm_ioctl)
	dmTargetSpec  = 40  // sizeof(struct dm_target_spec)
	dmSectorBytes = 8   // what struct dm_target_msg begins with
	dmUUIDOffset  = 176
	dmUUIDBytes   = 129

	dmStatusTable = 1 << 4  // the table, not the state
	dmBufferFull  = 1 << 8  // it did not fit
	dmNoFlush     = 1 << 11 // and do not wait for I/O meanwhile
)

// mapTable is what device-mapper tells of a map and sysfs does not.
type mapTable struct {
	queues bool // it keeps I/O while it has no path
	opens  int  // how many have it open
}

// Table asks for the table of a map. Sysfs does not tell it, and multipathd may be
// busy or dead just when it matters.
func (linux) Table(uuid string) (t mapTable, err error) {
	buf, err := askMapper(dmTableStatus, dmStatusTable|dmNoFlush, uuid, nil)
	if err != nil {
		return mapTable{}, fmt.Errorf("read the table of map %s: %w", uuid, err)
	}
	order := binary.NativeEndian
	if order.Uint32(buf[28:])&dmBufferFull != 0 {
		return mapTable{}, errors.New("the table of the map is too large")
	}
	t.opens = int(int32(order.Uint32(buf[24:])))
	start := int(order.Uint32(buf[16:])) + dmTargetSpec
	if order.Uint32(buf[20:]) == 0 || start >= len(buf) {
		return t, nil
	}
	table, _, _ := bytes.Cut(buf[start:], []byte{0})
	t.queues = tableQueues(string(table))
	return t, nil
}

// FailIfNoPath sends the message that multipathd would. It may be repeated.
func (linux) FailIfNoPath(uuid string) error {
	message := append(make([]byte, dmSectorBytes), "fail_if_no_path\x00"...) // to the target that begins at sector 0: a map has one
	if _, err := askMapper(dmTargetMsg, 0, uuid, message); err != nil {
		return fmt.Errorf("let what map %s keeps fail: %w", uuid, err)
	}
	return nil
}

// Resume is what multipathd does last after every change of a map. It may be repeated.
func (linux) Resume(uuid string) error {
	if _, err := askMapper(dmSuspend, 0, uuid, nil); err != nil {
		return fmt.Errorf("resume map %s: %w", uuid, err)
	}
	return nil
}

// askMapper asks device-mapper about a map, by its uuid, so that a number that has
// passed to another map is not asked.
func askMapper(command uintptr, flags uint32, uuid string, payload []byte) (answer []byte, err error) {
	if len(uuid) == 0 || len(uuid) >= dmUUIDBytes {
		return nil, fmt.Errorf("%q is not the uuid of a map", uuid)
	}
	control, err := os.OpenFile(dmControl, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = together(err, control.Close()) }()
	const room = 16 << 10
	buf := make([]byte, room)
	order := binary.NativeEndian
	order.PutUint32(buf[0:], 4) // the interface's major version
	order.PutUint32(buf[12:], room)
	order.PutUint32(buf[16:], dmHeader)
	order.PutUint32(buf[28:], flags)
	copy(buf[dmUUIDOffset:], uuid)
	copy(buf[dmHeader:], payload)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, control.Fd(), command, uintptr(unsafe.Pointer(&buf[0]))); errno != 0 { //nolint:gosec // the ioctl takes a pointer
		return nil, errno
	}
	return buf, nil
}

// tableQueues looks among the features that a multipath table begins with: their
// number, then their words.
func tableQueues(table string) bool {
	fields := strings.Fields(table)
	if len(fields) == 0 {
		return false
	}
	var features int
	if _, err := fmt.Sscan(fields[0], &features); err != nil || features < 0 || features >= len(fields) {
		return false
	}
	for _, f := range fields[1 : 1+features] {
		if f == "queue_if_no_path" {
			return true
		}
	}
	return false
}
