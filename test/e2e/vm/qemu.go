package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/vm/bootline"
	"github.com/datera-csi/datera-csi/test/e2e/vm/image"
)

// Accelerators.
const (
	accelKVM = "kvm"
	accelTCG = "tcg"
)

// probeLimit bounds the try to boot under KVM: there are hosts whose /dev/kvm opens and whose guests hang.
const probeLimit = 15 * time.Second

const qemuProgram = "qemu-system-x86_64"

func baseArgs(accel string, image *image.Image, initramfs, line string) []string {
	processor := "host"
	if accel == accelTCG {
		// An old processor, for AVX is emulated slower than what it replaces. What QEMU has translated it finds
		// again by its address, so a program that is loaded elsewhere each time is translated anew each time,
		// which takes most of its life.
		accel, processor, line = "tcg,thread=multi", "Nehalem", "norandmaps "+line
		if rate := counterKHz(); rate > 0 {
			// The kernel trusts no counter that the processor does not vouch for, and would read the emulated
			// HPET whenever anyone asks for the time; QEMU's processors share one counter, the host's.
			line = fmt.Sprintf("tsc=reliable tsc_early_khz=%d %s", rate, line)
		}
	}
	return []string{
		qemuProgram, "-M", "q35,usb=off,vmport=off", "-accel", accel, "-cpu", processor,
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot",
		"-kernel", image.Kernel, "-initrd", initramfs,
		// On a busy host an emulated timer may miss the few ticks by which the kernel judges it. Counting the
		// kernel's memory by cgroup is switched on by patching its allocator when the first pod comes; emulated
		// processors were seen to hang in the patched instruction for good.
		"-append", "console=ttyS0 loglevel=5 oops=panic panic=-1 mitigations=off net.ifnames=0 no_timer_check cgroup.memory=nokmem,nosocket rdinit=/init " + line,
	}
}

func (g *Guest) qemuArgs() []string {
	identity := bootline.Machine{Name: g.Name, Initiator: g.Initiator}
	for nic := range Networks {
		identity.Addresses = append(identity.Addresses, netip.PrefixFrom(g.Addr(nic), 24))
	}
	args := append(baseArgs(g.lab.accel, g.lab.image, g.lab.initramfs, identity.String()),
		"-name", g.Name, "-m", strconv.Itoa(g.spec.MemoryMB),
		// A guest that can have one processor only is emulated without memory barriers by QEMU before 8.1, and then
		// loses an interrupt of a network card now and then, which hangs for ever.
		"-smp", fmt.Sprintf("cpus=%d,maxcpus=%d", g.spec.CPUs, max(2, g.spec.CPUs)),
		"-chardev", "file,id=console,append=on,path="+escape(g.consoleFile()), "-serial", "chardev:console",
		"-device", "virtio-rng-pci",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,fd=3",
		"-device", "virtserialport,chardev=agent,name="+bootline.Port,
	)
	args = append(args, disk(bootline.RootDisk, g.lab.image.Root, "readonly=on")...)
	for _, d := range append([]Disk{{Name: bootline.StateDisk}}, g.spec.Disks...) {
		// Unsafe means only that flushes do not reach the host's disk: a killed guest loses no more than a
		// machine without power does.
		file, options := g.diskFile(d.Name), "cache=unsafe,discard=unmap"
		if d.ReadOnly {
			file, options = d.File, "readonly=on"
		}
		args = append(args, disk(d.Name, file, options)...)
	}
	for nic := range Networks {
		args = append(args,
			"-netdev", fmt.Sprintf("tap,id=net%d,ifname=%s,script=no,downscript=no,vhost=off", nic, g.tap(nic)),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=net%d,romfile=,mac=52:54:00:88:%02x:%02x", nic, nic+1, g.index))
	}
	return args
}

func disk(name, path, options string) []string {
	return []string{
		"-drive", fmt.Sprintf("if=none,id=%s,format=raw,%s,file=%s", name, options, escape(path)),
		"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s", name, name),
	}
}

// escape lets a value with commas through QEMU's option syntax.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }

// probeAccel finds out whether guests boot under KVM here, by booting one. The answer is kept until the
// host boots again or the kernel of the image changes.
func probeAccel(ctx context.Context, cache string, img *image.Image, initramfs string) (string, error) {
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return accelTCG, nil // no KVM is an answer
	}
	if err = device.Close(); err != nil {
		return "", err
	}
	unlock, err := image.Lock(ctx, filepath.Join(cache, "kvm.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	kernel, err := os.ReadFile(img.Kernel)
	if err != nil {
		return "", err
	}
	asked := fmt.Sprintf("%x %s", sha256.Sum256(kernel), strings.TrimSpace(string(boot)))
	known := filepath.Join(cache, "kvm.known")
	if content, readErr := os.ReadFile(known); readErr == nil {
		if answer, ok := strings.CutPrefix(string(content), asked+" "); ok {
			return answer, nil
		}
	}
	answer, err := bootsUnderKVM(ctx, img, initramfs)
	if err != nil {
		return "", err
	}
	return answer, os.WriteFile(known, []byte(asked+" "+answer), 0o644)
}

func bootsUnderKVM(ctx context.Context, img *image.Image, initramfs string) (string, error) {
	limited, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	args := append(baseArgs(accelKVM, img, initramfs, bootline.Machine{Probe: true}.String()), "-m", "256", "-serial", "stdio")
	qemu := exec.CommandContext(limited, args[0], args[1:]...)
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	qemu.WaitDelay = time.Second
	out, err := qemu.Output()
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return "", err
	case strings.Contains(string(out), bootline.ProbeMark):
		return accelKVM, nil
	default:
		return accelTCG, nil
	}
}
