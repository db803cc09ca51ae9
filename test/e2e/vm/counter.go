package vm

import (
	"slices"
	"sync"
	"time"
)

// counterKHz is the rate of the time stamp counter in kHz; 0 when it does not count evenly, or at all. A guest's
// kernel that has to find it out by itself compares two emulated clocks while it boots, and on a busy host it was
// seen to be wrong by a factor of seventeen: every timeout of that guest came too soon, for as long as it ran.
var counterKHz = sync.OnceValue(measureCounter)

func measureCounter() uint64 {
	const tries, length = 3, 30 * time.Millisecond
	rates := make([]uint64, tries)
	for i := range rates {
		from, began := readCounter()
		time.Sleep(length)
		to, ended := readCounter()
		rates[i] = (to - from) * uint64(time.Millisecond) / uint64(max(1, ended.Sub(began)))
	}
	slices.Sort(rates)
	if rates[tries-1]-rates[0] > rates[0]/1000 {
		return 0
	}
	return rates[tries/2]
}

// readCounter reads the counter and the time of that moment, of several tries the one that took least.
func readCounter() (count uint64, at time.Time) {
	least := time.Hour
	for range 10 {
		before := time.Now()
		now := timestampCounter()
		if took := time.Since(before); took < least {
			least, count, at = took, now, before
		}
	}
	return count, at
}
