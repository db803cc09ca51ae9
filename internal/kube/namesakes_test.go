package kube_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/datera-csi/datera-csi/internal/kube"
	"github.com/datera-csi/datera-csi/internal/namesakes"
)

// csiNodes is the list of CSINodes that have these drivers, each NODE/DRIVER=ID; one
// without a driver is NODE.
func csiNodes(all ...string) string {
	items := make([]string, len(all))
	for i, one := range all {
		name, registered, has := strings.Cut(one, "/")
		drivers := "null"
		if driver, id, _ := strings.Cut(registered, "="); has {
			drivers = fmt.Sprintf(`[{"name": "other.example", "nodeID": "iqn.2001-01.com.example:same"}, {"name": %q, "nodeID": %q, "topologyKeys": null}]`, driver, id)
		}
		items[i] = fmt.Sprintf(`{"metadata": {"name": %q, "ownerReferences": [{"name": "x"}]}, "spec": {"drivers": %s}}`, name, drivers)
	}
	return `{"kind": "CSINodeList", "metadata": {"resourceVersion": "7"}, "items": [` + strings.Join(items, ", ") + `]}`
}

// FM 10: an initiator name that several nodes have is found whatever its case; other
// drivers' ids and nodes without the driver do not count.
func TestNodesWithOneInitiatorNameAreFound(t *testing.T) {
	const x, y = "iqn.2001-01.com.example:x", "iqn.2001-01.com.example:y"
	for name, c := range map[string]struct {
		list string
		want map[string][]string
	}{
		"none":           {csiNodes(), map[string][]string{}},
		"each its own":   {csiNodes("a/"+driver+"="+x, "b/"+driver+"="+y), map[string][]string{}},
		"two":            {csiNodes("b/"+driver+"="+x, "c/"+driver+"="+y, "a/"+driver+"="+x), map[string][]string{x: {"a", "b"}}},
		"in two cases":   {csiNodes("a/"+driver+"="+x, "b/"+driver+"="+strings.ToUpper(x)), map[string][]string{x: {"a", "b"}}},
		"other driver's": {csiNodes("a/"+driver+"="+x, "b/foreign.example="+x), map[string][]string{}},
		"no driver":      {csiNodes("a/"+driver+"="+x, "b", "c"), map[string][]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			ids, err := serve(t, &api{list: c.list}).NodeIDs(t.Context(), driver)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(namesakes.Find(ids, time.Now()).Shared, c.want); diff != "" {
				t.Errorf("(-got +want):\n%s", diff)
			}
		})
	}
}

// A list that was cut off has nodes missing, and would make shared names look mended.
func TestAnAnswerThatIsNoWholeListIsAnError(t *testing.T) {
	whole := csiNodes("a/"+driver+"=iqn.2001-01.com.example:x", "b")
	for _, answer := range []string{"", "x", "[]", "null", "{}", `{"items": null}`, `{"items": {}}`, `{"items": [7]}`, whole[:len(whole)-1], whole[:len(whole)-2], whole[:len(whole)/2]} {
		if ids, err := serve(t, &api{list: answer}).NodeIDs(t.Context(), driver); err == nil || !strings.Contains(err.Error(), "csinodes") {
			t.Errorf("%q: ids %v, error %v", answer, ids, err)
		}
	}
}

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) context(t *testing.T, verbosity int) context.Context {
	t.Helper()
	return klog.NewContext(t.Context(), textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(l), textlogger.Verbosity(verbosity))))
}

func (l *lines) count(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), words)
}

// FM 10: each shared name is logged once when it appears and once when it is gone; an
// API that fails leaves the file, and so does one that refuses.
func TestSharedNamesAreToldOnceAndSilenceChangesNothing(t *testing.T) {
	const x = "iqn.2001-01.com.example:x"
	a := &api{list: csiNodes("a/"+driver+"="+x, "b/"+driver+"="+x)}
	log := &lines{}
	path := filepath.Join(t.TempDir(), "shared.json")
	n := kube.Namesakes{API: serve(t, a), Driver: driver, Every: time.Millisecond, Path: path}
	ctx, cancel := context.WithCancel(log.context(t, 2))
	defer cancel()
	done := make(chan struct{})
	go func() { n.Run(ctx); close(done) }()

	file := namesakes.Open(path, time.Now)
	nodes := func() string { return strings.Join(file.Nodes(t.Context(), x), " ") }
	await(t, "the name to be found", func() bool { return nodes() == "a b" })
	written := modified(t, path)
	await(t, "another look", func() bool { return modified(t, path) != written })

	a.set(func(a *api) { a.down = true })
	await(t, "the log to say it", func() bool { return log.count("It is not known") == 1 })
	written = modified(t, path)
	time.Sleep(20 * time.Millisecond)
	if modified(t, path) != written || nodes() != "a b" || log.count("It is not known") != 1 {
		t.Errorf("while the API is away the nodes are %q, and the log says\n%s", nodes(), &log.text)
	}
	a.set(func(a *api) {
		a.down, a.list = false, csiNodes("a/"+driver+"="+x, "b/"+driver+"=iqn.2001-01.com.example:y")
	})
	await(t, "the name to be gone", func() bool { return nodes() == "" && log.count("No two nodes have this initiator name any more") == 1 })
	cancel()
	<-done
	for words, want := range map[string]int{"Several nodes have one initiator name": 1, `nodes="a, b"`: 1, "It is known again": 1, "etcd is away": 1} {
		if got := log.count(words); got != want {
			t.Errorf("the log says %q %d times, want %d:\n%s", words, got, want, &log.text)
		}
	}
}

// The attacher goes on as soon as the API is back: then the list must not be old.
func TestAnAPIThatFailedIsAskedAgainSoon(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	account := serviceAccount(t, server)
	server.Close()
	token := filepath.Join(account, "token")
	if err := os.Rename(token, token+".away"); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		client, err := kube.New(server.URL, account)
		if err != nil {
			t.Fatal(err)
		}
		log := &lines{}
		n := kube.Namesakes{API: client, Driver: driver, Every: 20 * time.Minute, Path: filepath.Join(account, "shared.json")}
		go n.Run(log.context(t, 4))
		synctest.Wait()
		if err := os.Rename(token+".away", token); err != nil || log.count("It is not known") != 1 || log.count("connection refused") != 0 {
			t.Fatalf("%v; the log says\n%s", err, &log.text)
		}
		time.Sleep(10 * time.Second)
		if log.count("connection refused") == 0 || log.count("It is not known") != 1 {
			t.Errorf("ten seconds later the log says\n%s", &log.text)
		}
	})
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func modified(t *testing.T, path string) time.Time {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}
