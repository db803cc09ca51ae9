package namesakes_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/datera-csi/datera-csi/internal/namesakes"
)

const name = "iqn.2001-01.com.example:x"

var made = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func shared(nodes ...string) namesakes.List {
	ids := map[string]string{"alone": "iqn.2001-01.com.example:alone"}
	for _, n := range nodes {
		ids[n] = name
	}
	return namesakes.Find(ids, made)
}

// FM 10: what is written is read, whatever the case of the name that is asked for.
func TestTheReaderFindsWhatWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shared.json")
	f := namesakes.Open(path, func() time.Time { return made })
	for _, nodes := range [][]string{{"a", "b"}, {"a", "b", "c"}, nil} {
		if err := shared(nodes...).Write(path); err != nil {
			t.Fatal(err)
		}
		for _, asked := range []string{name, strings.ToUpper(name)} {
			if diff := cmp.Diff(f.Nodes(t.Context(), asked), nodes); diff != "" {
				t.Errorf("%s (-got +want):\n%s", asked, diff)
			}
		}
		if got := f.Nodes(t.Context(), "iqn.2001-01.com.example:alone"); got != nil {
			t.Errorf("a node alone shares its name with %v", got)
		}
	}
}

// A reader sees the list before or the one after, never a part.
func TestTheListIsReplacedWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "shared.json")
	lists := [][]string{{"a", "b"}, {}}
	for i := range 2000 {
		lists[1] = append(lists[1], fmt.Sprintf("node-%04d", i))
	}
	write := func(i int) {
		if err := shared(lists[i%2]...).Write(path); err != nil {
			t.Error(err)
		}
	}
	write(0)
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range 100 {
			write(i)
		}
	})
	f := namesakes.Open(path, func() time.Time { return made })
	for range 300 {
		if got := len(f.Nodes(t.Context(), name)); got != len(lists[0]) && got != len(lists[1]) {
			t.Fatalf("read %d nodes", got)
		}
	}
	writer.Wait()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("in the directory there is %v, %v", left, err)
	}
}

// FM 10: silence refuses nothing, and each change of it is told once.
func TestAListThatCannotBeBelievedSaysNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shared.json")
	now := made
	f := namesakes.Open(path, func() time.Time { return now })
	var log bytes.Buffer
	ctx := klog.NewContext(context.Background(), textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&log))))
	const without, again = "Volumes are published without a look", "It is known again"
	good := func() {
		if err := shared("a", "b").Write(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name string
		do   func()
		want int    // nodes
		says string // once, although asked thrice; "" is nothing
	}{
		{"not there yet", func() {}, 0, without},
		{"there", good, 2, again},
		{"there still", func() { now = made.Add(namesakes.MaxAge) }, 2, ""},
		{"old", func() { now = now.Add(time.Second) }, 0, without},
		{"older", func() { now = now.Add(time.Hour) }, 0, ""},
		{"made anew", func() { now = made; good() }, 2, again},
		{"cut off", func() { _ = os.Truncate(path, 20) }, 0, without},
		{"undated", func() { _ = os.WriteFile(path, []byte(`{"shared": {"`+name+`": ["a", "b"]}}`), 0o600) }, 0, without},
		{"back", good, 2, again},
		{"gone", func() { _ = os.Remove(path) }, 0, without},
		{"a directory", func() { _ = os.Mkdir(path, 0o700) }, 0, without},
	} {
		step.do()
		log.Reset()
		for range 3 {
			if got := f.Nodes(ctx, name); len(got) != step.want {
				t.Errorf("%s: nodes %v, want %d", step.name, got, step.want)
			}
		}
		if lines := strings.Count(log.String(), "\n"); !strings.Contains(log.String(), step.says) || lines > 1 || (lines == 1) != (step.says != "") {
			t.Errorf("%s: the log says\n%s, want one line with %q", step.name, &log, step.says)
		}
	}
}
