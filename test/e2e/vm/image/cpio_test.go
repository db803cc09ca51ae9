package image

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

// readCPIO reads an archive in the "newc" format: name to octal mode and content.
func readCPIO(t *testing.T, path string) map[string]string {
	t.Helper()
	archive, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for at := 0; ; {
		const headSize = 110
		if string(archive[at:at+6]) != "070701" {
			t.Fatalf("no header at byte %d", at)
		}
		field := func(i int) int {
			n, err := strconv.ParseUint(string(archive[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		mode, size, nameSize := field(1), field(6), field(11)
		name := string(archive[at+headSize : at+headSize+nameSize-1])
		if name == "TRAILER!!!" {
			return found
		}
		start := (at + headSize + nameSize + 3) / 4 * 4
		found[name] = fmt.Sprintf("%o %s", mode, archive[start:start+size])
		at = (start + size + 3) / 4 * 4
	}
}
