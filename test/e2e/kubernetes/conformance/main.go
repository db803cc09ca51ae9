// Command conformance runs Kubernetes' own tests of storage drivers against the driver on the laboratory's cluster.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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

func run(ctx context.Context) (err error) {
	dir := filepath.Join(os.TempDir(), "datera-csi-conformance-"+time.Now().Format("20060102-150405"))
	if err = os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tests := kubernetes.SuiteRun{Driver: filepath.Join(dir, "driver.yaml"), Focus: []string{`External.Storage`}, Procs: 3, Limit: 5 * time.Hour, Dir: dir}
	if err = os.WriteFile(tests.Driver, driver, 0o600); err != nil {
		return err
	}
	if focus := os.Getenv("FOCUS"); focus != "" {
		tests.Focus = []string{focus}
	}
	if procs := os.Getenv("PROCS"); procs != "" {
		if tests.Procs, err = strconv.Atoi(procs); err != nil || tests.Procs < 1 {
			return fmt.Errorf("PROCS=%s: say how many tests run at a time, such as 3", procs)
		}
	}
	for pattern := range leftOut() {
		tests.Skip = append(tests.Skip, pattern)
	}
	lab, err := vm.Open(ctx, vm.Config{Progress: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	cluster, err := kubernetes.Start(ctx, lab, kubernetes.Config{Progress: os.Stderr, Suite: true})
	if cluster != nil {
		defer func() { err = errors.Join(err, cluster.Close()) }()
	}
	if err != nil {
		return errors.Join(err, cluster.SaveLogs("conformance"))
	}
	err = play(ctx, cluster, tests)
	if err != nil && ctx.Err() == nil {
		err = errors.Join(err, cluster.SaveLogs("conformance"))
		fmt.Fprintln(os.Stderr, err) // before the cluster is kept to look at
	}
	if os.Getenv("KEEP") != "" && ctx.Err() == nil {
		cluster.Keep(ctx, os.Stdout)
	}
	return err
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
	found, err := read(filepath.Join(tests.Dir, "report.json"))
	if err != nil {
		return errors.Join(failed, err)
	}
	found.print(os.Stdout)
	fmt.Println("\nThe whole report:", filepath.Join(tests.Dir, "report.json"))
	left := kubernetes.Eventually(ctx, "the volumes to be gone", 5*time.Minute, func() error {
		left, err := cluster.Leftovers(ctx)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
		return err
	})
	return errors.Join(failed, left)
}

// report is what ginkgo writes of a run, as far as it is looked at.
type report struct {
	PreRunStats struct{ TotalSpecs, SpecsThatWillRun int }
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

// print tells each test that ran, and of the others why they did not.
func (r *report) print(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	count, why := map[string]int{}, map[string]int{}
	var rows []string
	for _, s := range r.SpecReports {
		if s.LeafNodeType != "It" {
			continue
		}
		if s.State == "skipped" || s.State == "pending" {
			why[reason(s.Failure.Message)]++
			continue
		}
		count[s.State]++
		name := strings.Join(append(s.ContainerHierarchyTexts[min(1, len(s.ContainerHierarchyTexts)):], s.LeafNodeText), " ")
		rows = append(rows, fmt.Sprintf("%s\t%s\t%.0f s", name, s.State, s.RunTime.Seconds()))
	}
	slices.Sort(rows)
	fmt.Fprintf(table, "\ntest\tresult\t\n%s\n", strings.Join(rows, "\n"))
	_ = table.Flush() // a terminal
	fmt.Fprintf(w, "\n%d passed, %d failed", count["passed"], len(rows)-count["passed"])
	fmt.Fprintf(w, " of %d tests; not run:\n", r.PreRunStats.TotalSpecs)
	reasons := make([]string, 0, len(why))
	for text, n := range why {
		reasons = append(reasons, fmt.Sprintf("%5d  %s", n, text))
	}
	slices.Sort(reasons)
	for _, line := range slices.Backward(reasons) {
		fmt.Fprintln(w, line)
	}
	for pattern, text := range leftOut() {
		fmt.Fprintf(w, "       %s: %s\n", pattern, text)
	}
}

// reason is why a test was skipped, in its own words.
func reason(message string) string {
	if message == "" {
		return "not chosen, or left out as is said below"
	}
	first, _, _ := strings.Cut(message, "\n")
	return first
}
