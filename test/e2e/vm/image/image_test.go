package image

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// builder counts its calls and makes an image of one file.
func builder(calls *atomic.Int32) func(context.Context, string) error {
	return func(_ context.Context, dir string) error {
		calls.Add(1)
		time.Sleep(50 * time.Millisecond) // long enough for the others to come
		if err := os.Mkdir(filepath.Join(dir, "image"), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "image", "root.ext4"), []byte("root"), 0o644)
	}
}

func entries(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestImageIsBuiltOnceForAllWhoAsk(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "new")
	var calls atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			image, err := ensure(t.Context(), cache, "key", io.Discard, builder(&calls))
			if err != nil {
				t.Error(err)
				return
			}
			if content, err := os.ReadFile(image.Root); err != nil || string(content) != "root" {
				t.Errorf("read the root: %q, %v", content, err)
			}
		})
	}
	all.Wait()
	if calls.Load() != 1 {
		t.Errorf("%d builds, want 1", calls.Load())
	}
	if left := entries(t, filepath.Join(cache, ".build-*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestACacheTooDeepForSocketsIsRefused(t *testing.T) {
	short := "/" + strings.Repeat("c", 50)
	t.Setenv("XDG_CACHE_HOME", short)
	if dir, err := Cache(); err != nil || dir != short+"/datera-csi/vm" {
		t.Errorf("got %s, %v", dir, err)
	}
	t.Setenv("XDG_CACHE_HOME", short+"c")
	if _, err := Cache(); err == nil || !strings.HasSuffix(err.Error(), "set XDG_CACHE_HOME to one of at most 51 bytes") {
		t.Errorf("got %v", err)
	}
}

func TestFailedBuildLeavesNothingAndIsTriedAgain(t *testing.T) {
	cache := t.TempDir()
	broken := errors.New("no network")
	_, err := ensure(t.Context(), cache, "key", io.Discard, func(_ context.Context, dir string) error {
		return errors.Join(os.Mkdir(filepath.Join(dir, "image"), 0o755), broken)
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want the builder's error", err)
	}
	for _, pattern := range []string{".build-*", "image-*"} {
		if left := entries(t, filepath.Join(cache, pattern)); left != nil {
			t.Errorf("left behind: %v", left)
		}
	}
	var calls atomic.Int32
	if _, err := ensure(t.Context(), cache, "key", io.Discard, builder(&calls)); err != nil || calls.Load() != 1 {
		t.Errorf("second try: %d builds, %v", calls.Load(), err)
	}
}

func TestBuildRemovesRemainsAndImagesLongUnused(t *testing.T) {
	cache := t.TempDir()
	old := time.Now().Add(-keepUnused - time.Hour)
	for _, name := range []string{".build-crashed", "image-old", "image-recent"} {
		if err := os.Mkdir(filepath.Join(cache, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(filepath.Join(cache, "image-old"), old, old); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int32
	if _, err := ensure(t.Context(), cache, "key", io.Discard, builder(&calls)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{".build-crashed": false, "image-old": false, "image-recent": true, "image-key": true} {
		if _, err := os.Stat(filepath.Join(cache, name)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", name, err == nil, want)
		}
	}
}

func TestWaitForAnotherBuilderEndsWithItsContext(t *testing.T) {
	cache := t.TempDir()
	unlock, err := Lock(t.Context(), filepath.Join(cache, "image.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var calls atomic.Int32
	if _, err := ensure(ctx, cache, "key", io.Discard, builder(&calls)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the end of the context", err)
	}
}

func TestKeyFollowsTheKernelAndNothingThatVaries(t *testing.T) {
	first, err := key("6.1.192-2")
	if err != nil {
		t.Fatal(err)
	}
	again, err := key("6.1.192-2")
	if err != nil {
		t.Fatal(err)
	}
	next, err := key("6.1.193-1")
	if err != nil {
		t.Fatal(err)
	}
	if first != again || first == next || len(first) != 16 {
		t.Errorf("keys %s, %s, %s", first, again, next)
	}
}
