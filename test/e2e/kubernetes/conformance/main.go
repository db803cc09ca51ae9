// Command conformance runs Kubernetes' own tests of storage drivers against the driver on the laboratory's cluster.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
	"github.com/datera-csi/datera-csi/test/e2e/testbed"
	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

//go:embed driver.yaml
var driver []byte

// class is the storage class that the tests copy; they choose the file system.
const class = `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: datera-conformance}, provisioner: dsp.csi.daterainc.io,
  allowVolumeExpansion: true, parameters: {replica_count: "3"}}`

// leftOut are tests that are not run, and why.
func leftOut() map[string]string {
	return map[string]string{
		`\[Disruptive\]`: "they reach nodes by SSH; make e2e kills kubelets, plugins and nodes",
		`\[Serial\]`:     "they want the cluster to themselves",
		`\[Slow\]`:       "an emulated machine takes hours for them",
		`ntfs`:           "no Windows",
	}
}

func main() {
	vm.Main(`conformance runs Kubernetes' own tests of storage drivers on a cluster in QEMU guests.
FOCUS=Regexp chooses some by name, PROCS=N says how many run at a time (3), KEEP=1 keeps the cluster afterwards.
It needs root or sudo, and installs the Debian packages that it lacks.`, run)
}

func run(ctx context.Context) error {
	dir := filepath.Join(os.TempDir(), "datera-csi-conformance-"+time.Now().Format("20060102-150405"))
	tests := kubernetes.SuiteRun{Driver: filepath.Join(dir, "driver.yaml"), Focus: `External.Storage`, Procs: 3, Limit: 5 * time.Hour, Dir: dir}
	if focus := os.Getenv("FOCUS"); focus != "" {
		tests.Focus = focus
	}
	if procs := os.Getenv("PROCS"); procs != "" {
		var err error
		if tests.Procs, err = strconv.Atoi(procs); err != nil || tests.Procs < 1 {
			return fmt.Errorf("PROCS=%s: say how many tests run at a time, such as 3", procs)
		}
	}
	for pattern := range leftOut() {
		tests.Skip = append(tests.Skip, pattern)
	}
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(tests.Driver, driver, 0o600)); err != nil {
		return err
	}
	return kubernetes.With(ctx, "conformance", kubernetes.Config{Progress: os.Stderr, Suite: true}, func(ctx context.Context, c *kubernetes.Cluster) error {
		return play(ctx, c, tests)
	})
}

// play runs the tests; afterwards nothing may be left of their volumes.
func play(ctx context.Context, cluster *kubernetes.Cluster, tests kubernetes.SuiteRun) error {
	root, err := testbed.ModuleRoot()
	if err != nil {
		return err
	}
	if err = cluster.Apply(ctx, class); err != nil {
		return err
	}
	if _, err = cluster.Kubectl(ctx, "apply", "-f", filepath.Join(root, "deploy", "kubernetes", "examples", "volumeattributesclass.yaml")); err != nil {
		return err
	}
	failed := cluster.RunSuite(ctx, os.Stdout, tests)
	path := filepath.Join(tests.Dir, "report.json")
	found, err := read(path)
	if err != nil {
		return errors.Join(failed, err)
	}
	found.print(os.Stdout)
	fmt.Println("\nThe whole report:", path)
	return errors.Join(failed, kubernetes.Eventually(ctx, "the volumes to be gone", 5*time.Minute, func() error { return cluster.NothingLeft(ctx) }))
}

// report is what ginkgo writes of a run, as far as it is looked at.
type report struct {
	SpecReports []struct {
		ContainerHierarchyTexts []string
		LeafNodeType            string
		LeafNodeText            string
		State                   string
		RunTime                 time.Duration
		Failure                 struct{ Message string }
	}
}

func read(path string) (*report, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []report
	if err = json.Unmarshal(content, &all); err == nil && len(all) != 1 {
		err = fmt.Errorf("there are %d suites in it", len(all))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &all[0], nil
}

// print tells each test of the driver that ran, and of the others why they did not.
func (r *report) print(w io.Writer) {
	var rows []string
	total, count, why := 0, map[string]int{}, map[string]int{}
	for _, s := range r.SpecReports {
		name := strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
		if s.LeafNodeType != "It" || !strings.HasPrefix(name, ofDrivers) { // the suite's libraries bring some of their own
			continue
		}
		total++
		if s.State == "skipped" || s.State == "pending" {
			why[reason(name, s.Failure.Message)]++
			continue
		}
		count[s.State]++
		rows = append(rows, fmt.Sprintf("%s\t%s\t%.0f s", strings.TrimPrefix(name, ofDrivers), s.State, s.RunTime.Seconds()))
	}
	slices.Sort(rows)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\ntest\tresult\t\n%s\n", strings.Join(rows, "\n"))
	_ = table.Flush() // a terminal
	fmt.Fprintf(w, "\n%d passed, %d failed of %d tests; not run:\n", count["passed"], len(rows)-count["passed"], total)
	for _, text := range slices.Sorted(maps.Keys(why)) {
		fmt.Fprintf(w, "%5d  %s\n", why[text], text)
	}
}

// ofDrivers begins the names of the tests of a driver.
const ofDrivers = "External Storage "

// reason is why a test did not run: in its own words, or in those of what left it out.
func reason(name, message string) string {
	if message != "" {
		first, _, _ := strings.Cut(message, "\n")
		return first
	}
	patterns := leftOut()
	for _, pattern := range slices.Sorted(maps.Keys(patterns)) {
		if regexp.MustCompile(pattern).MatchString(name) {
			return pattern + ": " + patterns[pattern]
		}
	}
	return "not chosen by FOCUS"
}
