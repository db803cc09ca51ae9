package vm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLabsTakeTurnsWhenTooMany(t *testing.T) {
	dir := t.TempDir()
	var said bytes.Buffer
	first, err := takeSlot(t.Context(), dir, 2, &said)
	if err != nil {
		t.Fatal(err)
	}
	second, err := takeSlot(t.Context(), dir, 2, &said)
	if err != nil {
		t.Fatal(err)
	}
	defer second()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err = takeSlot(ctx, dir, 2, &said); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third of two: %v", err)
	}
	if said.String() != "Waiting for one of 2 other labs to end\n" {
		t.Errorf("said %q", &said)
	}
	if err = first(); err != nil {
		t.Fatal(err)
	}
	third, err := takeSlot(t.Context(), dir, 2, &said)
	if err != nil {
		t.Fatal(err)
	}
	if err := third(); err != nil {
		t.Error(err)
	}
}

func TestGuestThatTheHostCannotHoldWaits(t *testing.T) {
	available, err := availableMB()
	if err != nil || available <= 0 {
		t.Fatal(available, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := waitForMemory(ctx, 1<<30, time.Hour, &bytes.Buffer{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a guest of a pebibyte: %v", err)
	}
}

func TestGuestThatTheHostCanNeverHoldIsRefusedWithTheFigures(t *testing.T) {
	err := waitForMemory(t.Context(), 1<<30, 20*time.Millisecond, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "a guest takes 1073741824 MiB of memory and leaves 512 to the host, which has had ") {
		t.Errorf("a guest of a pebibyte: %v", err)
	}
}

func TestRemainsOfAKilledLabAreRemovedAndALiveOneIsNot(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"dead", "alive"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := tryLock(filepath.Join(dir, "alive", lockFile))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err = removeDead(filepath.Join(dir, "*")); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "alive" {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestLastWordsBeginWithAPanic(t *testing.T) {
	noise := strings.Repeat("noise\n", 1000)
	cases := map[string]struct{ console, begins string }{
		"short":              {"booting\n", "booting"},
		"long":               {noise + "the end", "noise"},
		"panic":              {noise + "[ 1.0] Kernel panic - not syncing\n" + noise, "Kernel panic - not syncing"},
		"panic of last life": {"Kernel panic - first\n" + noise + "Kernel panic - second", "Kernel panic - second"},
		"empty":              {"", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "console")
			if err := os.WriteFile(path, []byte(c.console), 0o644); err != nil {
				t.Fatal(err)
			}
			if got := lastWords(path); !strings.HasPrefix(got, c.begins) || len(got) > 2000 {
				t.Errorf("got %d bytes beginning %q, want %q", len(got), got[:min(len(got), 40)], c.begins)
			}
		})
	}
}

func TestTranscriptTellsWhatWasRunAndHowItEnded(t *testing.T) {
	log := transcript{path: filepath.Join(t.TempDir(), "commands.log")}
	var head limited
	if n, err := head.Write(bytes.Repeat([]byte("x"), 3*transcriptLimit)); n != 3*transcriptLimit || err != nil {
		t.Fatal(n, err)
	}
	log.add(time.Now(), []string{"iscsiadm", "-m", "session"}, 21, nil, "no sessions\n")
	log.add(time.Now(), []string{"big"}, 0, nil, head.String())
	log.add(time.Now(), []string{"lost"}, 0, errors.New("guest is gone"), "")
	content, err := os.ReadFile(log.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"$ iscsiadm -m session\nno sessions\n# exit 21 after", "# guest is gone after"} {
		if !strings.Contains(string(content), want) {
			t.Errorf("%q is not in\n%s", want, content)
		}
	}
	if len(content) > 2*transcriptLimit {
		t.Errorf("the transcript has %d bytes of a large output", len(content))
	}
}

func TestGuestNamesAreHostNames(t *testing.T) {
	for _, name := range []string{"", "Worker", "1st", "a b", "a/b", "..", "a=b", strings.Repeat("a", 40)} {
		if guestName.MatchString(name) {
			t.Errorf("%q passes", name)
		}
	}
	if !guestName.MatchString("worker-1") {
		t.Error("worker-1 does not pass")
	}
}
