package main

import (
	"fmt"
	"strconv"
	"strings"
)

// parseSize reads bytes with an optional binary unit: 500GiB, 64TiB, 1099511627776.
func parseSize(text string) (int64, error) {
	const units = "KMGTP"
	number, shift := text, 0
	if rest, ok := strings.CutSuffix(text, "iB"); ok && rest != "" {
		i := strings.IndexByte(units, rest[len(rest)-1])
		if i < 0 {
			return 0, fmt.Errorf("%q has no unit of KiB, MiB, GiB, TiB, PiB", text)
		}
		number, shift = rest[:len(rest)-1], 10*(i+1)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n <= 0 || n > (1<<62)>>shift {
		return 0, fmt.Errorf("%q is not a size such as 500GiB", text)
	}
	return n << shift, nil
}
