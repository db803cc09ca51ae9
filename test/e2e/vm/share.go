package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// spareMB is how much memory guests leave to the host.
const spareMB = 512

// tryLock takes a lock or fails at once.
func tryLock(path string) (unlock func() error, err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file.Close, nil
}

// takeSlot bounds how many labs run on this machine at once: too many under emulation, and each runs into
// its time limits.
func takeSlot(ctx context.Context, cache string, slots int, progress io.Writer) (release func() error, err error) {
	err = waitFor(ctx, progress, fmt.Sprintf("one of %d other labs to end", slots), func() (bool, error) {
		for i := range slots {
			release, err = tryLock(filepath.Join(cache, fmt.Sprintf("slot-%d.lock", i)))
			if err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
				return err == nil, err
			}
		}
		return false, nil
	})
	return release, err
}

// memoryLimit bounds the wait for memory: other labs end and give theirs back, but a host may have too little for ever.
const memoryLimit = 2 * time.Minute

// waitForMemory returns when the host has what a guest may come to use, or has not had it for as long as limit.
func waitForMemory(ctx context.Context, guestMB int, limit time.Duration, progress io.Writer) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	available := 0
	err := waitFor(limited, progress, fmt.Sprintf("%d MiB of free memory", guestMB+spareMB), func() (ok bool, err error) {
		available, err = availableMB()
		return available >= guestMB+spareMB, err
	})
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("a guest takes %d MiB of memory and leaves %d to the host, which has had %d free: end other programs or labs: %w", guestMB, spareMB, available, err)
	}
	return err
}

func availableMB() (int, error) {
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer file.Close() //nolint:errcheck // only read
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(value, "kB")))
			return kib / 1024, err
		}
	}
	return 0, errors.Join(errors.New("/proc/meminfo has no MemAvailable"), lines.Err())
}

// waitFor polls a condition until it holds or ctx ends, and says so once if it does not hold at first.
func waitFor(ctx context.Context, progress io.Writer, what string, done func() (bool, error)) error {
	poll := time.NewTicker(500 * time.Millisecond)
	defer poll.Stop()
	for told := false; ; told = true {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if !told {
			_, _ = fmt.Fprintf(progress, "Waiting for %s\n", what)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		case <-poll.C:
		}
	}
}
