package vm

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestProxiesAreForNothingInTheGuestsNetwork(t *testing.T) {
	got := withoutProxies([]string{"http_proxy=http://proxy.example", "PATH=/bin", "HTTPS_PROXY=x", "all_proxy=x", "no_proxy=x", "GOPROXY=https://go.example"})
	if diff := cmp.Diff([]string{"PATH=/bin", "GOPROXY=https://go.example"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
