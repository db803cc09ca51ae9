package iscsi

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// identity is who a device says it is.
type identity struct {
	Serial string // unit serial number, VPD page 0x80
	WWID   string // as multipathd and scsi_id write it
	Bytes  int64  // READ CAPACITY(16), 0 where it was not asked
}

const (
	pageSerial = 0x80
	pageIDs    = 0x83
	vpdHeader  = 4
)

// vpdPayload checks the header of a VPD page (SPC-5, 7.7) and returns what follows.
func vpdPayload(page []byte, code byte) ([]byte, error) {
	if len(page) < vpdHeader {
		return nil, fmt.Errorf("VPD page %#x: %d bytes are too short for a header", code, len(page))
	}
	if page[1] != code {
		return nil, fmt.Errorf("VPD page %#x: the answer is page %#x", code, page[1])
	}
	n := int(binary.BigEndian.Uint16(page[2:]))
	if n > len(page)-vpdHeader {
		return nil, fmt.Errorf("VPD page %#x: %d bytes announced, %d sent", code, n, len(page)-vpdHeader)
	}
	return page[vpdHeader : vpdHeader+n], nil
}

// parseSerial reads VPD page 0x80.
func parseSerial(page []byte) (string, error) {
	p, err := vpdPayload(page, pageSerial)
	if err != nil {
		return "", err
	}
	serial := strings.Trim(string(p), " \x00")
	if serial == "" {
		return "", errors.New("VPD page 0x80: the serial number is empty")
	}
	return serial, nil
}

// parseWWID reads VPD page 0x83 and picks the designator that udev's scsi_id and
// multipathd pick, written as they write it: a digit for the kind, then the
// identifier in hex. Only world-wide unique kinds count.
func parseWWID(page []byte) (string, error) {
	p, err := vpdPayload(page, pageIDs)
	if err != nil {
		return "", err
	}
	best, rank := "", 0
	for len(p) >= vpdHeader {
		n := int(p[3])
		if n > len(p)-vpdHeader {
			return "", errors.New("VPD page 0x83: a designator reaches beyond the page")
		}
		if id, r := designator(p[:vpdHeader+n]); r > rank {
			best, rank = id, r
		}
		p = p[vpdHeader+n:]
	}
	if rank == 0 {
		return "", errors.New("VPD page 0x83: no NAA or EUI-64 designator")
	}
	return best, nil
}

// designator renders one designator of VPD page 0x83 and ranks it; rank 0 means
// that it does not identify a logical unit for the world.
func designator(d []byte) (id string, rank int) {
	const (
		binaryCode = 1
		unit       = 0
		eui64      = 2
		naa        = 3
	)
	codeSet, association, kind, body := d[0]&0x0f, d[1]>>4&0x3, d[1]&0x0f, d[vpdHeader:]
	if association != unit || codeSet != binaryCode || len(body) == 0 {
		return "", 0
	}
	switch {
	case kind == naa && body[0]>>4 == 6 && len(body) == 16:
		return "3" + hex.EncodeToString(body), 4
	case kind == naa && len(body) == 8 && body[0]>>4 != 3: // 3 is locally assigned
		return "3" + hex.EncodeToString(body), 3
	case kind == naa && len(body) == 8:
		return "3" + hex.EncodeToString(body), 2
	case kind == eui64 && (len(body) == 8 || len(body) == 12 || len(body) == 16):
		return "2" + hex.EncodeToString(body), 1
	}
	return "", 0
}

// lioWWID is the WWID that a Linux target derives from a unit serial number: NAA 6,
// IEEE company 001405, then the first 25 hex digits of the serial, zero padded. How the
// array makes its own is not public. If otherwise, two things are not found by this: the
// map of a volume whose paths are all gone, and a disk whose serial number the kernel
// does not know.
func lioWWID(serial string) string {
	const digits = 25
	id := make([]byte, 0, digits)
	for _, c := range []byte(strings.ToLower(serial)) {
		if len(id) < digits && (c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			id = append(id, c)
		}
	}
	return "36001405" + string(id) + strings.Repeat("0", digits-len(id))
}
