package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// agentPackage is the program that guests run.
const agentPackage = "github.com/datera-csi/datera-csi/test/e2e/vm/agent"

// BuildAgent compiles the agent to path. It must be called within the module's tree.
func BuildAgent(ctx context.Context, path string) error {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path, agentPackage)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the guest agent (run this within a checkout of datera-csi): %w: %s", err, out)
	}
	return nil
}

// WriteInitramfs writes what a guest starts with to path: the agent as /init and the modules it needs to
// reach the root disk.
func (i *Image) WriteInitramfs(agent, path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // closed again below, where it counts
	archive := &cpio{w: file}
	for _, dir := range []string{"dev", "proc", "sys", "run", "modules", "image", "state", "newroot"} {
		archive.add(dir, 0o040755, nil)
	}
	archive.device("dev/console", 0o020600, 5, 1)
	archive.file("init", 0o100755, agent)
	modules, err := os.ReadDir(i.modules)
	if err != nil {
		return err
	}
	for _, module := range modules {
		archive.file("modules/"+module.Name(), 0o100644, filepath.Join(i.modules, module.Name()))
	}
	archive.add("TRAILER!!!", 0, nil)
	if archive.err != nil {
		return fmt.Errorf("write the initial RAM file system: %w", archive.err)
	}
	return file.Close()
}

// cpio writes the "newc" format, the one that kernels unpack. It stops at the first error and keeps it.
type cpio struct {
	w     io.Writer
	inode uint32
	err   error
}

func (c *cpio) file(name string, mode uint32, path string) {
	content, err := os.ReadFile(path)
	if err != nil && c.err == nil {
		c.err = err
	}
	c.add(name, mode, content)
}

func (c *cpio) add(name string, mode uint32, content []byte) { c.entry(name, mode, 0, 0, content) }

func (c *cpio) device(name string, mode, major, minor uint32) { c.entry(name, mode, major, minor, nil) }

func (c *cpio) entry(name string, mode, major, minor uint32, content []byte) {
	if c.err != nil {
		return
	}
	c.inode++
	head := "070701"
	for _, field := range []uint32{
		c.inode, mode, 0, 0, 1, 0, uint32(len(content)), 0, 0, major, minor, uint32(len(name) + 1), 0,
	} {
		head += fmt.Sprintf("%08x", field)
	}
	for _, part := range [][]byte{pad(append([]byte(head+name), 0)), pad(content)} {
		if _, c.err = c.w.Write(part); c.err != nil {
			return
		}
	}
}

// pad fills up to a multiple of four bytes.
func pad(b []byte) []byte { return append(b, make([]byte, (4-len(b)%4)%4)...) }
