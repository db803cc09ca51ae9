//go:build e2e

package kubernetes_test

import (
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes/walkthrough"
	"github.com/datera-csi/datera-csi/test/e2e/tell"
)

// The article's story holds: `make demo` tells it, this test runs it.
func TestWalkThrough(t *testing.T) {
	r := useCluster(t)
	if err := walkthrough.Play(r.ctx, tell.New(logged{t}), r.Cluster); err != nil {
		t.Fatal(err)
	}
}

type logged struct{ t *testing.T }

func (l logged) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
