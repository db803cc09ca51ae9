// Package sanity_test runs csi-test, the conformance tests of the CSI project,
// against the plugin: its real controller against an array, its real node
// service on a played machine, all in one process and over the unix socket that
// an orchestrator would use. The array is the simulator, or hardware:
//
//	go test ./test/sanity -v
//	go test ./test/sanity -v -array=https://10.0.0.5:7718 -array-user=admin -array-password-file=password -array-ca=ca.crt
//
// With -endpoint it tests a plugin that somebody else has started, on a real
// host:
//
//	go test ./test/sanity -v -endpoint=unix:///run/datera-csi/csi.sock
package sanity_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
)

// suite is one run through all of csi-test.
type suite struct {
	name    string
	access  string // mount or block
	secrets string // in csi-test's form; "" for none
}

// Secrets that must show up nowhere but on the array.
const (
	canary   = "canary-Pass-1"
	canaryIn = "canary-Pass-2"

	mutualCHAP = `
CreateVolumeSecret: &chap
  node.session.auth.username: host
  node.session.auth.password: ` + canary + `
  node.session.auth.username_in: array
  node.session.auth.password_in: ` + canaryIn + `
NodeStageVolumeSecret: *chap
`
)

func suites() []suite {
	return []suite{
		{name: "file system", access: "mount"},
		{name: "raw block", access: "block"},
		{name: "file system, mutual CHAP", access: "mount", secrets: mutualCHAP},
	}
}

var ginkgoHasRun atomic.Bool

// TestSanity runs all suites. Every spec of every capability that the plugin
// advertises must run and pass; skips lists those that do not run.
func TestSanity(t *testing.T) {
	if ginkgoHasRun.Swap(true) {
		t.Skip("ginkgo runs a suite once in a process: repeat with a shell loop, not with -count")
	}
	address := *endpoint
	if address == "" {
		l := startPlugin(t)
		address = l.address
		t.Cleanup(func() {
			if !strings.Contains(l.log.String(), "***stripped***") {
				t.Error("the log shows no request with secrets: that it tells none proves nothing")
			}
		})
	}
	var report ginkgo.Report
	ginkgo.ReportAfterSuite("keep the report", func(r ginkgo.Report) { report = r })
	for _, s := range suites() {
		config := newConfig(t, address, s)
		ginkgo.Describe(s.name, func() {
			c := sanity.GinkgoTest(&config)
			t.Cleanup(c.Finalize)
		})
	}
	gomega.RegisterFailHandler(ginkgo.Fail)
	config, reporter := ginkgo.GinkgoConfiguration()
	reporter.NoColor = true // the output of go test is no terminal
	ginkgo.RunSpecs(t, "csi-sanity", config, reporter)
	checkSkips(t, report, advertised(t, address))
}

func newConfig(t *testing.T, address string, s suite) sanity.TestConfig {
	t.Helper()
	dir, err := os.MkdirTemp("", "csi-sanity-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err = os.Remove(dir); err != nil {
			t.Errorf("a target or staging path was left behind: %v", err)
		}
	})
	config := sanity.NewTestConfig()
	config.Address = address
	config.TargetPath = filepath.Join(dir, "target")
	config.StagingPath = filepath.Join(dir, "staging")
	config.TestVolumeAccessType = s.access
	config.TestVolumeSize = 2 << 30
	config.TestVolumeExpandSize = 3 << 30
	config.TestVolumeMutableParameters = map[string]string{"total_iops_max": "1000", "iops_per_gb": "100"}
	config.IdempotentCount = 3
	if s.secrets != "" {
		config.SecretsFile = filepath.Join(t.TempDir(), "secrets.yaml")
		if err = os.WriteFile(config.SecretsFile, []byte(s.secrets), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return config
}
