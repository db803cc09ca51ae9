package node_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/pkg/node"
)

// FM 20: an ext4 that refuses writes since an error is told from one that goes on,
// and from one that had its error before it was mounted.
func TestAnExt4ThatStoppedWithoutShowingIt(t *testing.T) {
	const mounted = 1_700_000_000
	for name, c := range map[string]struct {
		onErrors uint16 // by its superblock: 1 goes on, 2 stops
		options  []string
		where    string
		at       int64
		want     bool
	}{
		"errors=remount-ro":                 {1, []string{"rw", "errors=remount-ro"}, "ext4_lookup", mounted + 5, true},
		"remount-ro by the superblock":      {2, []string{"rw"}, "ext4_lookup", mounted + 5, true},
		"continue in spite of it":           {2, []string{"rw", "errors=continue"}, "ext4_lookup", mounted + 5, false},
		"goes on":                           {1, []string{"rw"}, "ext4_lookup", mounted + 5, false},
		"the journal was aborted":           {1, []string{"rw"}, "ext4_journal_check_start", mounted + 5, true},
		"the journal was aborted back then": {1, []string{"rw"}, "ext4_journal_check_start", mounted - 5, false},
		"an error of long ago":              {2, []string{"rw"}, "ext4_lookup", mounted - 5, false},
	} {
		t.Run(name, func(t *testing.T) {
			superblock := make([]byte, 1024)
			binary.LittleEndian.PutUint32(superblock[0x2c:], mounted)
			binary.LittleEndian.PutUint16(superblock[0x3c:], c.onErrors)
			got := node.StoppedSince(superblock, c.options, node.FilesystemErrors{Count: 1, Where: c.where, Time: time.Unix(c.at, 0)})
			if got != c.want {
				t.Errorf("stopped: %v, want %v", got, c.want)
			}
		})
	}
}
