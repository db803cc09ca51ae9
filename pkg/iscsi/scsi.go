package iscsi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

func (linux) Identify(path string) (identity, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return identity{}, err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	serialPage, err := inquiry(f, pageSerial)
	if err != nil {
		return identity{}, err
	}
	idPage, err := inquiry(f, pageIDs)
	if err != nil {
		return identity{}, err
	}
	id, err := parseIdentity(serialPage, idPage)
	if err != nil {
		return identity{}, fmt.Errorf("%s: %w", path, err)
	}
	id.Bytes, err = readCapacity(f)
	return id, err
}

// inquiry reads a page of vital product data (SPC-5, 6.7).
func inquiry(f *os.File, page byte) ([]byte, error) {
	const length = 1020 // its lower byte is a good length too, for old targets that read only that one
	answer := make([]byte, length)
	n, err := scsiRead(f, []byte{0x12, 1, page, length >> 8, length & 0xff, 0}, answer)
	if err != nil {
		return nil, fmt.Errorf("inquire page %#x of %s: %w", page, f.Name(), err)
	}
	return answer[:n], nil
}

// readCapacity asks for the size with READ CAPACITY(16) (SBC-4, 5.21).
func readCapacity(f *os.File) (int64, error) {
	const length = 32
	answer := make([]byte, length)
	n, err := scsiRead(f, []byte{0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, length, 0, 0}, answer)
	if err != nil {
		return 0, fmt.Errorf("read the capacity of %s: %w", f.Name(), err)
	}
	bytes, err := parseCapacity(answer[:n])
	if err != nil {
		return 0, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return bytes, nil
}

func parseCapacity(answer []byte) (int64, error) {
	if len(answer) < 12 {
		return 0, fmt.Errorf("READ CAPACITY(16): %d bytes are too short", len(answer))
	}
	last, block := binary.BigEndian.Uint64(answer), uint64(binary.BigEndian.Uint32(answer[8:]))
	const limit = 1<<63 - 1
	if block == 0 || last >= limit/block {
		return 0, fmt.Errorf("READ CAPACITY(16): last block %d of %d bytes makes no sense", last, block)
	}
	return int64((last + 1) * block), nil
}

// sgIO is struct sg_io_hdr of <scsi/sg.h>.
type sgIO struct {
	interfaceID   int32
	direction     int32
	cmdLen        uint8
	maxSense      uint8
	iovecs        uint16
	dataLen       uint32
	data          unsafe.Pointer
	cmd           unsafe.Pointer
	sense         unsafe.Pointer
	timeout       uint32 // ms
	flags         uint32
	packID        int32
	_             [4]byte
	userPtr       unsafe.Pointer
	status        uint8
	maskedStatus  uint8
	messageStatus uint8
	senseLen      uint8
	hostStatus    uint16
	driverStatus  uint16
	residual      int32
	duration      uint32
	info          uint32
	_             [4]byte
}

// scsiRead sends one command that reads, and returns how much came back. A unit
// attention is only news about an earlier event (the LUN grew, was mapped anew):
// the command is sent again.
func scsiRead(f *os.File, cmd, data []byte) (int, error) {
	const attempts = 5
	var err error
	for range attempts {
		var n int
		n, err = scsiReadOnce(f, cmd, data)
		if !errors.Is(err, errUnitAttention) {
			return n, err
		}
	}
	return 0, err
}

var errUnitAttention = errors.New("unit attention")

func scsiReadOnce(f *os.File, cmd, data []byte) (int, error) {
	const (
		ioctlSGIO      = 0x2285
		fromDevice     = -3
		senseBytes     = 32
		commandTimeout = 8000
	)
	sense := make([]byte, senseBytes)
	hdr := &sgIO{
		interfaceID: 'S',
		direction:   fromDevice,
		cmdLen:      uint8(len(cmd)),
		maxSense:    senseBytes,
		dataLen:     uint32(len(data)),
		data:        unsafe.Pointer(unsafe.SliceData(data)),  //nolint:gosec // the ioctl takes addresses; KeepAlive below
		cmd:         unsafe.Pointer(unsafe.SliceData(cmd)),   //nolint:gosec // as above
		sense:       unsafe.Pointer(unsafe.SliceData(sense)), //nolint:gosec // as above
		timeout:     commandTimeout,
	}
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), ioctlSGIO, uintptr(unsafe.Pointer(hdr))) //nolint:gosec // as above
	runtime.KeepAlive(cmd)
	runtime.KeepAlive(data)
	runtime.KeepAlive(sense)
	if errno != 0 {
		return 0, errno
	}
	if err := scsiStatus(hdr, sense); err != nil {
		return 0, err
	}
	n := len(data) - int(hdr.residual)
	if n < 0 || n > len(data) {
		return 0, fmt.Errorf("the device says that %d of %d bytes are missing", hdr.residual, len(data))
	}
	return n, nil
}

func scsiStatus(hdr *sgIO, sense []byte) error {
	const checkCondition, unitAttention = 0x02, 0x6
	if hdr.status == checkCondition && senseKey(sense[:min(int(hdr.senseLen), len(sense))]) == unitAttention {
		return errUnitAttention
	}
	if hdr.status != 0 || hdr.hostStatus != 0 || hdr.driverStatus&0x7 != 0 {
		return fmt.Errorf("the command failed: SCSI status %#x, host %#x, driver %#x, sense key %#x",
			hdr.status, hdr.hostStatus, hdr.driverStatus, senseKey(sense[:min(int(hdr.senseLen), len(sense))]))
	}
	return nil
}

// senseKey reads both formats of sense data (SPC-5, 4.4).
func senseKey(sense []byte) byte {
	switch {
	case len(sense) >= 2 && sense[0]&0x7f >= 0x72:
		return sense[1] & 0xf
	case len(sense) >= 3 && sense[0]&0x7f >= 0x70:
		return sense[2] & 0xf
	}
	return 0
}
