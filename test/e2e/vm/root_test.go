package vm

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhatTheUserSaysReachesRootAndTheUsersCachesDoNot(t *testing.T) {
	environ := []string{
		"HOME=/home/user", "USER=user", "PATH=/usr/local/go/bin:/usr/bin", "XDG_RUNTIME_DIR=/run/user/1000", "GOMODCACHE=/home/user/mod", "GOENV=/home/user/env",
		"LAB=b", "E2E_OUTAGE=10m", "FOCUS=ext4", "https_proxy=http://user:secret@proxy.example:3128", "SSL_CERT_FILE=/etc/ca.pem",
		"TMPDIR=/big/tmp", "XDG_CACHE_HOME=/big/cache", "GOFLAGS=-v", "BASH_FUNC_f%%=() { :; }",
	}
	settings := map[string]string{
		"GOMODCACHE": "/home/user/mod s", "GOPROXY": "https://go.example,direct", "GOFLAGS": "-v", "GOSUMDB": "off", "GOCACHE": "/home/user/.cache/go-build", "GOPRIVATE": "",
	}
	argv, env := forRoot(environ, settings)
	wantArgv := []string{
		"-H", "--preserve-env=E2E_OUTAGE,FOCUS,GOFLAGS,GOPROXY,GOSUMDB,LAB,SSL_CERT_FILE,https_proxy",
		"env", "PATH=/usr/local/go/bin:/usr/bin:/usr/sbin:/sbin", "TMPDIR=/big/tmp", "XDG_CACHE_HOME=/big/cache/root",
	}
	if diff := cmp.Diff(wantArgv, argv); diff != "" {
		t.Errorf("-want +arguments:\n%s", diff)
	}
	wantEnv := []string{
		"BASH_FUNC_f%%=() { :; }", "E2E_OUTAGE=10m", "FOCUS=ext4", "GOENV=/home/user/env", "GOFLAGS=-v", "GOMODCACHE=/home/user/mod",
		"GOPROXY=file:///home/user/mod%20s/cache/download|https://go.example,direct", "GOSUMDB=off", "HOME=/home/user", "LAB=b",
		"PATH=/usr/local/go/bin:/usr/bin", "SSL_CERT_FILE=/etc/ca.pem", "TMPDIR=/big/tmp", "USER=user",
		"XDG_CACHE_HOME=/big/cache", "XDG_RUNTIME_DIR=/run/user/1000", "https_proxy=http://user:secret@proxy.example:3128",
	}
	if diff := cmp.Diff(wantEnv, env); diff != "" {
		t.Errorf("-want +environment:\n%s", diff)
	}
}
