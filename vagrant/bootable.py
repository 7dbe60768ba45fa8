#!/usr/bin/env python3
"""Make a disk image boot from BIOS by GRUB: what grub-bios-setup does to a device, done to a file.

    bootable.py DISK BOOT_IMG CORE_IMG

DISK is a raw image with a GPT whose first partition, of type BIOS boot, begins at sector 2048. boot.img goes
into the first sector, which keeps its partition table; core.img, made by grub-mkimage, into the partition.
Two places are patched that say where the rest lies (grub-core/boot/i386/pc/{boot,diskboot}.S and
include/grub/i386/pc/boot.h in GRUB's source, the same since 2.00).
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

SECTOR = 512
PARTITION_SECTOR = 2048
PARTITION_SECTORS = 2048
# In boot.img: the sector of core.img, the drive (0xff: the one booted from), and a jump over a check that
# overwrites the drive on broken BIOSes, which grub-bios-setup replaces by two NOPs.
KERNEL_SECTOR, BOOT_DRIVE, DRIVE_CHECK = 0x5C, 0x64, 0x66
# What belongs to the BIOS and the partition table, not to GRUB.
BPB = slice(0x03, 0x5A)
TABLE = slice(0x1B8, 0x200)
# In core.img's first sector, the block list: start, count in sectors, segment to load to (0x8200 >> 4).
BLOCK_LIST, LOAD_SEGMENT = 0x200 - 12, 0x820


def boot_sector(boot: bytes, old: bytes) -> bytes:
    """The 512 bytes of the first sector: GRUB's code, with the disk's table."""
    sector = bytearray(boot[:SECTOR])
    sector[BPB] = old[BPB]
    sector[TABLE] = old[TABLE]
    struct.pack_into("<Q", sector, KERNEL_SECTOR, PARTITION_SECTOR)
    sector[BOOT_DRIVE] = 0xFF
    sector[DRIVE_CHECK : DRIVE_CHECK + 2] = b"\x90\x90"
    return bytes(sector)


def core_image(core: bytes) -> bytes:
    """core.img in whole sectors, the first of which knows where the others are. Raises ValueError."""
    image = bytearray(core + bytes(-len(core) % SECTOR))
    sectors = len(image) // SECTOR
    if not 2 <= sectors <= PARTITION_SECTORS:
        raise ValueError(f"the core image has {sectors} sectors; 2 to {PARTITION_SECTORS} fit")
    struct.pack_into("<QHH", image, BLOCK_LIST, PARTITION_SECTOR + 1, sectors - 1, LOAD_SEGMENT)
    return bytes(image)


def main() -> None:
    disk, boot, core = map(Path, sys.argv[1:])
    with disk.open("r+b") as device:
        sector = boot_sector(boot.read_bytes(), device.read(SECTOR))
        device.seek(0)
        device.write(sector)
        device.seek(PARTITION_SECTOR * SECTOR)
        device.write(core_image(core.read_bytes()))


if __name__ == "__main__":
    main()
