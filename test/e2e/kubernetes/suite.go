package kubernetes

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// suite builds Kubernetes' own tests of storage drivers, the command that runs them, and the program in the pods
// that they start.
func (b builder) suite(ctx context.Context, dir string) error {
	began := time.Now()
	b.tell("Building the storage tests of Kubernetes %s", Version)
	err := b.goTool(ctx, b.module(), []string{"test", "-v", "-c", "-o", filepath.Join(dir, "storage.test")}, "./conformance")
	if err == nil {
		err = b.goTool(ctx, b.module(), []string{"build", "-v", "-o", dir + string(filepath.Separator)}, "github.com/onsi/ginkgo/v2/ginkgo", "k8s.io/kubernetes/test/images/agnhost")
	}
	if err != nil {
		return fmt.Errorf("build the storage tests: %w", err)
	}
	b.tell("Built them in %.0f s", time.Since(began).Seconds())
	return nil
}

// suiteImages are the images that the tests start, by the names that they use: their program agnhost, and busybox,
// which does for all that is started for its shell.
func suiteImages(ctx context.Context, suite string, shell packed) ([]packed, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(suite, "storage.test"), "--list-images").Output()
	if err != nil {
		return nil, fmt.Errorf("ask the storage tests for their images: %w", explain(err))
	}
	shell.Names = nil
	agnhost := packed{Program: filepath.Join(suite, "agnhost"), Path: "/agnhost", Args: []string{"pause"}, Busybox: shell.Busybox, Tools: shell.Tools}
	for _, name := range strings.Fields(string(out)) {
		switch repository, _, _ := strings.Cut(name, ":"); repository {
		case "registry.k8s.io/e2e-test-images/agnhost":
			agnhost.Names = append(agnhost.Names, name)
		case "registry.k8s.io/e2e-test-images/busybox", "registry.k8s.io/e2e-test-images/nginx": // of which they want a shell
			shell.Names = append(shell.Names, name)
		}
	}
	if len(agnhost.Names) == 0 || len(shell.Names) == 0 {
		return nil, fmt.Errorf("the storage tests name no images of agnhost and busybox, but %s", strings.Fields(string(out)))
	}
	return []packed{agnhost, shell}, nil
}

// SuiteRun says which of Kubernetes' own storage tests to run, and how.
type SuiteRun struct {
	Driver string        // file of the driver's definition (k8s.io/kubernetes/test/e2e/storage/external)
	Focus  string        // regular expression of names
	Skip   []string      // regular expressions of names, each of which leaves out
	Procs  int           // tests at a time
	Limit  time.Duration // for all of it
	Dir    string        // for report.json and what failed tests left to read
}

// RunSuite runs them against the cluster, which was started with Config.Suite. Output goes to w. An error says that
// tests failed or could not run.
func (c *Cluster) RunSuite(ctx context.Context, w io.Writer, run SuiteRun) error {
	args := []string{
		"--procs=" + strconv.Itoa(run.Procs), "--timeout=" + run.Limit.String(), "--no-color", "--silence-skips",
		"--output-dir=" + run.Dir, "--json-report=report.json", "--poll-progress-after=10m",
		"--focus=" + run.Focus,
	}
	for _, pattern := range run.Skip {
		args = append(args, "--skip="+pattern)
	}
	args = append(args, filepath.Join(c.parts.Suite, "storage.test"), "--",
		"--kubeconfig="+c.Kubeconfig(), "--storage.testdriver="+run.Driver, "--provider=skeleton",
		"--kubectl-path="+filepath.Join(c.parts.Programs, "kubectl"), "--report-dir="+run.Dir, "--num-nodes="+strconv.Itoa(len(c.Workers)))
	cmd := exec.CommandContext(ctx, filepath.Join(c.parts.Suite, "ginkgo"), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = run.Dir, w, w
	cmd.Env = append(os.Environ(), "HOME="+c.plane.dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it ends its children
	cmd.WaitDelay = time.Minute
	if err := c.VM.Net.Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("the storage tests: %w", err)
	}
	return nil
}
