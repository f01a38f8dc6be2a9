#!/usr/bin/env bash
# Runs tests of eas-train on instructions that this machine lacks: in Linux on an emulated Sapphire Rapids, which has
# AVX-512 with BF16 and matrix units (AMX). The emulator is Bochs, which shows results and says nothing of speed.
#
#   BOCHS_SOURCE=DIR LINUX=FILE scripts/emulated_tests.sh [--without-matrix-units] [TEST...]
#
# DIR is the unpacked source of Bochs 3.0 (Debian 13: apt-get source bochs), FILE the image of a kernel of Linux 6.12
# (Debian 13: boot/vmlinuz-* of the package that linux-image-cloud-amd64 depends on; 6.1 hung). TEST is a part of
# tests' names, by default `cpu::kernels::`, which takes three minutes; a test takes some hundred times as long as
# without the emulator. LIMIT is how many seconds all of it may take, by default three hours. The emulator is built
# the first time, in two minutes. Beside Rust it needs Debian's packages g++, make, binutils, python3, bochsbios,
# vgabios, busybox-static, cpio, grub-pc-bin, grub-common, xorriso and mtools. What it makes is in target/emulated.
set -euo pipefail
source=$(realpath -e "${BOCHS_SOURCE:?names the folder of the source of Bochs 3.0}")
kernel=$(realpath -e "${LINUX:?names the image of a kernel of Linux 6.12}")
script=$(realpath "$0")
cd "$(dirname "$script")/.."
work=$PWD/target/emulated
left_out=waitpkg
expected=amx_bf16
if [ "${1:-}" = --without-matrix-units ]; then
  left_out+=,amx,amx_int8,amx_bf16
  expected=avx512_bf16
  shift
fi
tests=("${@:-cpu::kernels::}")
mkdir -p "$work"
exec 9>"$work/lock"
flock -n 9 || { echo "another run uses $work" >&2; exit 1; }

# Linux turns matrix units off where it can't keep a process from their registers until it asks for them. That takes
# IA32_XFD (Intel's manual, volume 1, "Extended Feature Disable"), which Bochs lacks: a register whose bit 18 makes
# their instructions raise #NM. And Bochs 3.0 doesn't keep tiles where tasks are switched (xsave.cc): rows and bytes of
# a row are swapped, the test for use is the wrong way round, and 8 of 16 rows are saved. Its log of instructions a
# second is written by a signal's handler, which can wait for ever for a lock of the code that it interrupts.
build_bochs() (
  rm -rf "$work/unfinished"
  cp -r "$source" "$work/unfinished"
  cd "$work/unfinished"
  python3 - <<'PYTHON'
import pathlib

def insert(name, anchors, text, before=False):
    """Puts text behind the last of anchors, each looked for behind the one before it."""
    path = pathlib.Path("cpu", name)
    code, place = path.read_text("latin-1"), 0
    for anchor in anchors:
        start = code.find(anchor, place)
        if start < 0:
            raise SystemExit(f"{path} isn't that of Bochs 3.0: it lacks `{anchor.strip()}`")
        place = start + len(anchor)
    place = start if before else place
    path.write_text(code[:place] + text + code[place:], "latin-1")

def replace(name, old, new):
    path = pathlib.Path("cpu", name)
    code = path.read_text("latin-1")
    if old not in code:
        raise SystemExit(f"{path} isn't that of Bochs 3.0: it lacks `{old}`")
    path.write_text(code.replace(old, new), "latin-1")

tile_data = "BX_XCR0_XTILEDATA_MASK"
disable, error = "BX_CPU_THIS_PTR msr.ia32_xfd", "BX_CPU_THIS_PTR msr.ia32_xfd_error"
insert("cpu.h", ["Bit64u ia32_xss;\n"], "Bit64u ia32_xfd, ia32_xfd_error;\n")
insert("init.cc", ["msr.ia32_xss = 0;\n"], f"{disable} = {error} = 0;\n")
insert("cpuid.cc", ["leaf->eax |= (1<<3);\n"], "if (is_cpu_extension_supported(BX_ISA_AMX)) leaf->eax |= 1<<4;\n")
insert("cpuid.cc", ["leaf->ecx = (cpu->ia32_xss_suppmask & (1 << subfunction)) != 0;\n"],
       "if (subfunction == 18) leaf->ecx |= 1<<2;\n")
insert("msr.cc", ["msr_desc[BX_MSR_XSS] ="], before=True, text=
       'msr_desc[BX_MSR_IA32_XFD] = new MSR_Descriptor("MSR_IA32_XFD", BX_ISA_XSAVES);\n'
       'msr_desc[BX_MSR_IA32_XFD_ERROR] = new MSR_Descriptor("MSR_IA32_XFD_ERR", BX_ISA_XSAVES);\n')
insert("msr.cc", ["case BX_MSR_XSS:\n", "case BX_MSR_XSS:\n"], before=True, text=
       f"case BX_MSR_IA32_XFD: {disable} = val_64; handleAvxModeChange(); break;\n"
       f"case BX_MSR_IA32_XFD_ERROR: {error} = val_64; break;\n")
insert("msr.cc", ["case BX_MSR_XSS:\n"], before=True, text=
       f"case BX_MSR_IA32_XFD: val64 = {disable}; break;\n"
       f"case BX_MSR_IA32_XFD_ERROR: val64 = {error}; break;\n")
insert("proc_ctrl.cc", ["#if BX_SUPPORT_AMX\n  if (! long64_mode() ||"], f" ({disable} & {tile_data}) ||")
insert("proc_ctrl.cc", ["BX_CPU_C::BxNoAMX", f"{tile_data}))\n    exception(BX_UD_EXCEPTION, 0);\n"],
       f"if ({disable} & {tile_data}) {{ {error} = {tile_data}; exception(BX_NM_EXCEPTION, 0); }}\n")
replace("xsave.cc", "tilecfg.vmm16u(8+n)    =", "tilecfg.vmmubyte(48+n) =")
replace("xsave.cc", "tilecfg.vmmubyte(48+n) = BX_CPU_THIS_PTR amx->tilecfg[n].bytes",
        "tilecfg.vmm16u(8+n) = BX_CPU_THIS_PTR amx->tilecfg[n].bytes")
replace("xsave.cc", "amx->tile_use_tracker == 0", "amx->tile_use_tracker != 0")
replace("xsave.cc", "row < BX_TILE_REGISTERS", "row < BX_TILE_MAX_ROWS")
PYTHON
  rm -f bochs
  ./configure CXXFLAGS="-O2 -march=native" --enable-x86-64 --enable-avx --enable-evex --enable-amx --enable-pci \
    --enable-memtype --enable-long-phy-address --enable-all-optimizations --disable-docbook --with-nogui \
    --disable-show-ips
  make -j "$(nproc)"
  rm -rf "$work/bochs"
  mv "$work/unfinished" "$work/bochs"
)
bochs=$work/bochs/bochs
if [ ! -x "$bochs" ] || [ "$script" -nt "$bochs" ]; then
  echo "builds the emulator; should this be the last line, $work/build.log says why"
  # Behind `||` a failing command within would not end it.
  build_bochs >"$work/build.log" 2>&1
fi

# The disk of the emulated machine: Linux, and in memory the tests, what they link and a shell.
program=$(cargo test --package eas-train --lib --locked --no-run --message-format=json \
  | python3 -c 'import json, sys; print(*filter(None, (json.loads(line).get("executable") for line in sys.stdin)))')
cd "$work"
rm -rf disk root
mkdir -p disk/boot/grub root/{bin,proc,sys,dev,tmp}
strip --strip-debug -o root/tests "$program"
ldd root/tests | grep -o '/lib[^ ]*' | while read -r library; do
  mkdir -p "root$(dirname "$library")"
  cp -L "$library" "root$library"
done
cp "$(command -v busybox)" root/bin/
cat >root/init <<INIT
#!/bin/busybox sh
busybox mount -t proc none /proc
busybox mount -t sysfs none /sys
busybox mount -t devtmpfs none /dev
busybox mount -t tmpfs none /tmp
exec >/dev/ttyS0 2>&1 </dev/null
echo "instructions:" \$(busybox grep -m1 '^flags' /proc/cpuinfo | busybox grep -oE 'avx2|avx512[a-z_0-9]*|amx[a-z_0-9]*')
RUST_BACKTRACE=0 /tests --test-threads=1 ${tests[*]@Q}
echo "ended: \$?"
busybox halt -f
INIT
chmod +x root/init
(cd root && find . | cpio --create --format=newc --quiet | gzip -1) >disk/boot/root
cp "$kernel" disk/boot/linux
cat >disk/boot/grub/grub.cfg <<GRUB
linux /boot/linux console=ttyS0,115200 quiet nokaslr mitigations=off lpj=1000000 tsc=reliable acpi=off
initrd /boot/root
boot
GRUB
grub-mkrescue --output disk.iso disk >disk.log 2>&1 || { echo "no disk: see $work/disk.log" >&2; exit 1; }

: >console.txt
cat >bochsrc <<BOCHS
display_library: nogui
memory: guest=2048, host=2048
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
cpu: model=sapphire_rapids, exclude_features="$left_out", ips=10000000
clock: sync=none
ata0-master: type=cdrom, path=disk.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=console.txt
log: bochs.log
panic: action=fatal
BOCHS
echo "starts Linux, which takes a minute"
timeout --kill-after=10 "${LIMIT:-10800}" "$bochs" -q -f bochsrc >bochs.txt 2>&1 </dev/null 9>&- &
emulator=$!
trap 'kill $emulator 2>/dev/null || true' EXIT
# `tail` has nobody to write to once the last line is there, which is no failure.
tail --lines=+1 --follow --pid=$emulator console.txt | sed -u '/^ended: \|Kernel panic/q' | tee output.txt || true

failed() {
  echo "$1: see output.txt, bochs.txt and bochs.log in $work" >&2
  exit 1
}
grep -q "^instructions: .*$expected" output.txt || failed "the emulated machine lacks $expected"
grep -q '^running [1-9]' output.txt || failed "no such test was run"
grep -q '^ended: 0' output.txt || failed "a test failed, or the emulator ended before the tests"
